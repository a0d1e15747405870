"""Memory, descriptors, threads and CPU of one process, read from outside, and their growth."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.processes import read_cpu_s


class ProcessUsage(NamedTuple):
    """One process at one moment."""

    rss_kib: int
    """Resident memory."""
    pss_kib: int | None
    """The same with shared pages divided among their users; None where the kernel does not say."""
    fds: int
    """Open file descriptors."""
    threads: int
    cpu_s: float
    """User and system time of all threads so far."""


class Growth(NamedTuple):
    """How a quantity went from the first tenth of its readings to the last."""

    per_minute: float
    """Slope of the line of least squares."""
    first: float
    """Median of the first tenth."""
    last: float
    """Median of the last tenth."""
    highest: float

    @classmethod
    def of(cls, times_s: Sequence[float], values: Sequence[float]) -> "Growth":
        """Describe readings, (N,) each, N at least 2."""
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
        """Last minus first."""
        return self.last - self.first


def read_usage(pid: int) -> ProcessUsage | None:
    """Read a process's figures; None when it has ended.

    Source: proc(5), status, smaps_rollup and fd.
    """
    proc = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError, KeyError):  # it ends while it is read; a zombie has no memory
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
    """Read the lines `name: number ...` of a file of /proc."""
    pairs = (line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    words = {name: rest.split() for name, rest in pairs}
    return {name: int(rest[0]) for name, rest in words.items() if rest and rest[0].isdigit()}
