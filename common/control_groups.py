"""Reads the limits of this process's control groups: a container's CPU limit and memory limit."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
# Version 1 writes the largest multiple of a page for no limit.
NO_LIMIT_BYTES = 1 << 60


class CpuQuota(NamedTuple):
    """The smallest quota of the process's control group and the groups above it.

    When the processes of the group have used their share of a period (0.1 s), the kernel stops them until the
    next one.
    """

    cores: float
    num_periods: int
    """Periods in which a process of the group was running."""
    num_throttled: int
    """Those in which the kernel stopped them."""


def read_cpu_quota(own_groups: Path = OWN_GROUPS, groups: Path = GROUPS) -> CpuQuota | None:
    """Return the quota; None if there is none, or if the system does not tell.

    Args:
        own_groups: File with the process's control groups, one for each hierarchy.
        groups: Where the hierarchies are mounted.
    """
    quotas = filter(None, map(_read_quota, _directories("cpu", own_groups, groups)))
    return min(quotas, default=None)


def read_memory_left(own_groups: Path = OWN_GROUPS, groups: Path = GROUPS) -> int | None:
    """Return how many bytes the memory limit leaves to the process; None if there is no limit.

    Cached files that the kernel can drop are not counted as used.

    Args:
        own_groups: File with the process's control groups, one for each hierarchy.
        groups: Where the hierarchies are mounted.
    """
    left = (_read_memory_left(group) for group in _directories("memory", own_groups, groups))
    return min((found for found in left if found is not None), default=None)


def _directories(controller: str, own_groups: Path, groups: Path) -> Iterator[Path]:
    """List the directories that may limit the process, of version 1 and 2 of control groups.

    Without a namespace for control groups a container sees its path on the host, which its mount does not
    have: the root of the mount is then its own group.
    """
    text = _read(own_groups)
    for _, controllers, path in (line.split(":", 2) for line in text.splitlines() if line.count(":") > 1):
        if controllers and controller not in controllers.split(","):
            continue
        mounts = (groups / controllers, groups / controller) if controllers else (groups, groups / "unified")
        for mount in mounts:
            place = mount / path.strip("/")
            yield from (group for group in (place, *place.parents) if group.is_relative_to(mount))


def _read_quota(group: Path) -> CpuQuota | None:
    """Read the quota of one group; None if it has none."""
    limit = _read(group / "cpu.max")
    if not limit:
        limit = f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
    words = limit.split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or not int(words[1]):
        return None  # "max" or -1: no quota
    counts = _read_counts(group / "cpu.stat")
    return CpuQuota(int(words[0]) / int(words[1]), counts.get("nr_periods", 0), counts.get("nr_throttled", 0))


def _read_memory_left(group: Path) -> int | None:
    """Read what the limit of one group leaves; None if it has none."""
    limit, used = (
        (_read(group / new) or _read(group / old)).strip()
        for new, old in (
            ("memory.max", "memory.limit_in_bytes"),
            ("memory.current", "memory.usage_in_bytes"),
        )
    )
    if not limit.isdigit() or not used.isdigit() or int(limit) >= NO_LIMIT_BYTES:
        return None
    counts = _read_counts(group / "memory.stat")
    droppable = counts.get("total_inactive_file", counts.get("inactive_file", 0))
    return max(int(limit) - int(used) + droppable, 0)


def _read_counts(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    return {words[0]: int(words[1]) for words in pairs if len(words) == 2 and words[1].isdigit()}


def _read(path: Path) -> str:
    """Read a file; empty if there is none."""
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
