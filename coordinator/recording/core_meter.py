"""Measures how long a thread waited for a core, and how often a CPU quota stopped the process."""

import threading
import time
from pathlib import Path
from typing import NamedTuple

from common.control_groups import read_cpu_quota
from sut.results.telemetry import CoreFigures


class _Reading(NamedTuple):
    """The kernel's counts at one moment."""

    at_ns: int
    waited_ns: int
    num_periods: int
    num_throttled: int


class CoreMeter:
    """Measures one thread from `begin`, which the thread calls, to `end`."""

    def __init__(self) -> None:
        """Measure nothing yet."""
        self._path: Path | None = None
        self._first: _Reading | None = None
        self._last: _Reading | None = None

    def begin(self) -> None:
        """Begin.

        Thread: the measured one.
        """
        self._path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._first = _read(self._path)

    def end(self) -> None:
        """End; without a begin nothing was measured.

        Thread: any.
        """
        self._last = None if self._path is None else _read(self._path)

    @property
    def figures(self) -> CoreFigures | None:
        """What was measured; None if nothing was, or if the kernel does not tell."""
        first, last = self._first, self._last
        if first is None or last is None:
            return None
        return CoreFigures(*(end - begin for begin, end in zip(first, last, strict=True)))


def _read(path: Path) -> _Reading | None:
    """Read the counts; None if the kernel does not have them.

    Source: Linux, Documentation/scheduler/sched-stats.rst: time on a core, time waiting for one, in ns, and
    the number of time slices. A thread that a CPU quota has stopped waits for a core.
    """
    try:
        waited_ns = int(path.read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    quota = read_cpu_quota()
    counts = (0, 0) if quota is None else (quota.num_periods, quota.num_throttled)
    return _Reading(time.monotonic_ns(), waited_ns, *counts)
