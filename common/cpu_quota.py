"""Reads the CPU quota of this process's control group: Kubernetes' CPU limit, docker's --cpus."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


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
    quotas = filter(None, map(_read_quota, _directories(own_groups, groups)))
    return min(quotas, default=None)


def _directories(own_groups: Path, groups: Path) -> Iterator[Path]:
    """List the directories that may limit the process, of version 1 and 2 of control groups.

    Without a namespace for control groups a container sees its path on the host, which its mount does not
    have: the root of the mount is then its own group.
    """
    text = _read(own_groups) or ""
    for _, controllers, path in (line.split(":", 2) for line in text.splitlines() if line.count(":") > 1):
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = (groups / controllers, groups / "cpu") if controllers else (groups, groups / "unified")
        for mount in mounts:
            place = mount / path.strip("/")
            yield from (group for group in (place, *place.parents) if group.is_relative_to(mount))


def _read_quota(group: Path) -> CpuQuota | None:
    """Read the quota of one group; None if it has none."""
    limit = _read(group / "cpu.max")
    if limit is None:
        limit = f"{_read(group / 'cpu.cfs_quota_us') or ''} {_read(group / 'cpu.cfs_period_us') or ''}"
    words = limit.split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or not int(words[1]):
        return None  # "max" or -1: no quota
    counts = dict(
        line.split(" ", 1) for line in (_read(group / "cpu.stat") or "").splitlines() if " " in line
    )
    periods, throttled = (int(counts.get(name, 0)) for name in ("nr_periods", "nr_throttled"))
    return CpuQuota(int(words[0]) / int(words[1]), periods, throttled)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return None
