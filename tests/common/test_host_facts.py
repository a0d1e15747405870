"""What both ends tell of their machine."""

import os
import resource
from pathlib import Path

import pytest

from common import host_facts
from common.control_groups import CpuQuota
from common.host_facts import nearest, read_disk_space, read_host_facts


def test_host_is_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores, limits, versions and variables are those that the system itself gives."""
    monkeypatch.setenv("NCCL_DEBUG", "WARN")
    host = read_host_facts()
    assert os.uname().nodename == host.hostname
    assert (os.cpu_count(), len(os.sched_getaffinity(0))) == (host.num_cores, host.num_usable_cores)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (host.soft_open_files, host.hard_open_files)
    assert os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") == host.memory_bytes
    assert 0 < host.available_memory_bytes < host.memory_bytes
    assert "WARN" == host.environment["NCCL_DEBUG"]
    assert "pytest" not in host.package_versions
    assert host.package_versions["grpcio"].startswith("1.")
    assert [] == list(host.not_told)


def test_no_limit_is_the_largest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """RLIM_INFINITY, which is -1 here, does not look like a low limit."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    assert 2**64 - 1 == read_host_facts().soft_open_files


def test_the_cpu_limit_of_a_container_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """2.5 cores of a container; a process without a limit tells none."""
    found = []
    for quota in (CpuQuota(2.5, 0, 0), None):
        monkeypatch.setattr(host_facts, "read_cpu_quota", lambda quota=quota: quota)
        found.append(read_host_facts().cpu_quota_cores)
    assert [2.5, None] == found


def test_disk_of_what_is_not_there_is_that_of_its_folder(tmp_path: Path) -> None:
    """A directory that a run would make is measured where it would lie."""
    disk = read_disk_space("output directory", tmp_path / "not" / "yet")
    space = os.statvfs(tmp_path)
    assert ("output directory", str(tmp_path / "not" / "yet")) == (disk.purpose, disk.path)
    assert 0 < disk.free_bytes <= space.f_frsize * space.f_blocks
    assert tmp_path == nearest(tmp_path / "not" / "yet")
    assert tmp_path == nearest(tmp_path)


def test_path_that_is_not_utf_8_can_be_sent(tmp_path: Path) -> None:
    """A byte that is not UTF-8 becomes a question mark: protobuf would refuse the text."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff"))
    path.mkdir()
    assert f"{tmp_path}/a?" == read_disk_space("output directory", path).path
