"""The CPU quota of a process's control group, in the files of both versions."""

from pathlib import Path

import pytest

from common.cpu_quota import CpuQuota, read_cpu_quota

STAT = "nr_periods 761\nnr_throttled 715\nthrottled_time 50805424891\n"


def read_in(directory: Path, own: str, files: dict[str, str]) -> CpuQuota | None:
    """Read the quota in a tree of files."""
    (directory / "own").write_text(own)
    for name, text in files.items():
        path = directory / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read_cpu_quota(directory / "own", directory / "groups")


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/pod/run\n", {"pod/run/cpu.max": "30000 100000\n", "cpu.stat": ""}, 0.3),
        # The pod's quota is the smaller one.
        ("0::/pod/run\n", {"pod/run/cpu.max": "max 100000\n", "pod/cpu.max": "400000 100000\n"}, 4.0),
        # Inside a container the own group is the root of the mount.
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("4:memory:/x\n1:cpu:/h4\n0::/\n", {"cpu/h4/cpu.cfs_quota_us": "30000\n"}, 0.3),
        ("3:cpu,cpuacct:/docker/ab\n", {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n"}, 2.0),
    ],
)
def test_the_smallest_quota_is_found(tmp_path: Path, own: str, files: dict[str, str], cores: float) -> None:
    """Of the process's group and of those above it, in cores, with the periods in which it was stopped."""
    periods = {str(Path(name).with_name("cpu.cfs_period_us")): "100000\n" for name in files if "cfs" in name}
    stats = {str(Path(name).with_name("cpu.stat")): STAT for name in files}
    assert CpuQuota(cores, 761, 715) == read_in(tmp_path, own, files | periods | stats)


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/pod\n", {"pod/cpu.max": "max 100000\n"}),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}),
        # A group beside the own one, and another controller.
        ("0::/pod\n", {"other/cpu.max": "30000 100000\n"}),
        ("1:memory:/\n", {"cpu/cpu.cfs_quota_us": "30000\n", "cpu/cpu.cfs_period_us": "100000\n"}),
        ("", {}),
    ],
)
def test_no_quota(tmp_path: Path, own: str, files: dict[str, str]) -> None:
    """None is set, or none is that of this process."""
    assert read_in(tmp_path, own, files) is None


def test_this_system_is_read() -> None:
    """Whatever it has is a quota above 0 or none."""
    quota = read_cpu_quota()
    assert quota is None or quota.cores > 0
