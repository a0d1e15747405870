"""Lateness of LoadGen's issue thread, measured by a thread that is delayed by the same causes.

LoadGen counts latency from the time at which a query was due; the coordinator's clock starts when LoadGen
calls it. In between LoadGen's thread needs a core and the interpreter lock. The coordinator does not know
when a query was due. It measures a thread of its own that is due at known times and needs both as well.
"""

import threading
import time
from array import array
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from coordinator.recording.jitter import PauseMeter
from sut.results.telemetry import Pauses

INTERVAL_NS = 97_000_000
"""No divisor or multiple of the period of a CPU quota, 100 ms: the kernel stops a process in the same part of
each period, which equally long intervals could miss for ever."""


class Timer(NamedTuple):
    """How the thread reads the time and sleeps."""

    now_ns: Callable[[], int] = time.monotonic_ns
    sleep: Callable[[float], None] = time.sleep
    """Sleeps for that many seconds; cheaper than a wait for an event."""


class IssueLateness:
    """Measures within a `with` block.

    The due times are equally spaced and are not moved by a delay: a pause of one second makes 10 measurements
    late, and counts as one pause.
    """

    def __init__(self, timer: Timer | None = None) -> None:
        """Prepare; measuring begins with the `with` block."""
        self._timer = timer or Timer()
        self._late_ns = array("q")
        self._meter = PauseMeter()
        self._began_ns = 0
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._run, name="issue lateness", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop measuring; does not wait: the thread ends within one interval."""
        self._ended.set()

    def measured_ns(self) -> NDArray[np.int64]:
        """Return all measurements so far, in order.

        The slice is a copy: the thread could not append to an array that numpy reads.

        Thread: any.
        """
        return np.array(self._late_ns[:], np.int64)

    @property
    def pauses(self) -> Pauses:
        """Figures of all pauses so far.

        Thread: any.
        """
        return self._meter.pauses

    def late_periods(self, least_ns: int) -> list[tuple[int, int]]:
        """Return when the thread was late by at least this much: begin and duration, in order.

        One pause makes all measurements late that are due in it; they are one period.

        Thread: any.
        """
        late_ns = self.measured_ns()
        periods: list[tuple[int, int]] = []
        end_ns = 0
        for row in np.flatnonzero(late_ns >= least_ns).tolist():
            due_ns = self._began_ns + (row + 1) * INTERVAL_NS
            if due_ns >= end_ns:
                periods.append((due_ns, int(late_ns[row])))
            end_ns = max(end_ns, due_ns + int(late_ns[row]))
        return periods

    def worst_ns(self, seconds: float) -> int:
        """Return the largest measurement of the last seconds; 0 without any.

        Thread: any.
        """
        return max(self._late_ns[-max(int(seconds * 1e9 / INTERVAL_NS), 1) :], default=0)

    def _run(self) -> None:
        due_ns = ended_ns = self._began_ns = self._timer.now_ns()
        while not self._ended.is_set():
            due_ns += INTERVAL_NS
            left_ns = due_ns - self._timer.now_ns()
            if left_ns > 0:
                self._timer.sleep(left_ns / 1e9)
            late_ns = max(self._timer.now_ns() - due_ns, 0)
            self._late_ns.append(late_ns)
            if due_ns >= ended_ns:
                self._meter.add(late_ns)
            ended_ns = max(ended_ns, due_ns + late_ns)
