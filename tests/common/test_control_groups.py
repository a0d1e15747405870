"""CPU quota and memory limit of a process's control group, in the files of both versions."""

from pathlib import Path

import pytest

from common.control_groups import CpuQuota, read_cpu_quota, read_memory_left

STAT_FILES = "anon 70\ninactive_file 30\n"
STAT = "nr_periods 761\nnr_throttled 715\nthrottled_time 50805424891\n"


def write_groups(directory: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Write a tree of files; returns the arguments that read it."""
    (directory / "own").write_text(own)
    for name, text in files.items():
        path = directory / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory / "own", directory / "groups"


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
    assert CpuQuota(cores, 761, 715) == read_cpu_quota(*write_groups(tmp_path, own, files | periods | stats))


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
    assert read_cpu_quota(*write_groups(tmp_path, own, files)) is None


@pytest.mark.parametrize(
    ("own", "files", "left"),
    [
        # 100 of 1,000 bytes are used, and 30 of them by files that can be dropped.
        ("0::/a\n", {"a/memory.max": "1000\n", "a/memory.current": "100", "a/memory.stat": STAT_FILES}, 930),
        (
            "4:memory:/a\n",
            {"memory/a/memory.limit_in_bytes": "1000\n", "memory/a/memory.usage_in_bytes": "100\n"},
            900,
        ),
        ("0::/a\n", {"a/memory.max": "max\n", "a/memory.current": "100\n"}, None),
        (
            "4:memory:/\n",
            {
                "memory/memory.limit_in_bytes": "9223372036854771712\n",
                "memory/memory.usage_in_bytes": "100\n",
            },
            None,
        ),
    ],
)
def test_the_memory_limit_is_read(tmp_path: Path, own: str, files: dict[str, str], left: int | None) -> None:
    """What the limit leaves; version 1 writes a very large number for none."""
    assert left == read_memory_left(*write_groups(tmp_path, own, files))


def test_this_system_is_read() -> None:
    """Whatever it has is a quota above 0 or none."""
    quota = read_cpu_quota()
    assert quota is None or quota.cores > 0
