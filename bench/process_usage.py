"""Memory, descriptors, threads and CPU time of one process, read from /proc, and their growth."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.processes import read_cpu_s


class ProcessUsage(NamedTuple):
    """Resource usage of one process at one moment."""

    rss_kib: int
    """Resident set size (RSS)."""
    pss_kib: int | None
    """Proportional set size (PSS): shared pages are divided among their users; None if unsupported."""
    fds: int
    """Open file descriptors."""
    threads: int
    cpu_s: float
    """User and system time of all threads since the start of the process."""


class Growth(NamedTuple):
    """Growth of a quantity from the first tenth of its readings to the last tenth."""

    per_minute: float
    """Slope of the least-squares line."""
    first: float
    """Median of the first tenth."""
    last: float
    """Median of the last tenth."""
    highest: float

    @classmethod
    def of(cls, times_s: Sequence[float], values: Sequence[float]) -> "Growth":
        """Compute the growth from times and values, (N,) each, N at least 2."""
        slope, _ = np.polyfit(np.asarray(times_s) / 60.0, np.asarray(values, np.float64), 1)
        tenth = max(len(values) // 10, 1)
        return cls(
            per_minute=float(slope),
            first=float(np.median(values[:tenth])),
            last=float(np.median(values[-tenth:])),
            highest=float(max(values)),
        )

    @property
    def total(self) -> float:
        """Return `last` minus `first`."""
        return self.last - self.first


def read_usage(pid: int) -> ProcessUsage | None:
    """Read the usage of a process; return None if it has ended.

    Source: proc(5), status, smaps_rollup and fd.
    """
    proc = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError, KeyError):  # it may end during the read; a zombie has no memory fields
        status = _fields(proc / "status")
        return ProcessUsage(
            rss_kib=status["VmRSS"],
            pss_kib=_read_pss_kib(proc),
            fds=len(os.listdir(proc / "fd")),
            threads=status["Threads"],
            cpu_s=read_cpu_s(pid),
        )
    return None


def _read_pss_kib(proc: Path) -> int | None:
    try:
        return _fields(proc / "smaps_rollup")["Pss"]
    except (OSError, KeyError):
        return None


def _fields(path: Path) -> dict[str, int]:
    """Parse the `name: number ...` lines of a /proc file."""
    pairs = (line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    words = {name: rest.split() for name, rest in pairs}
    return {name: int(rest[0]) for name, rest in words.items() if rest and rest[0].isdigit()}
