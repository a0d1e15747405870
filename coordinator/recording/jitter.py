"""How steadily the coordinator runs: its pauses, and the system clock that LoadGen measures by."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from sut.results.checks import PAUSE_BOUND_NS, ClockFigures, Pauses, Telemetry

TICK_S = 1.0
# Three clocks cannot be read at once. A reading that took longer than this is made again: it would
# look like a step.
_READING_BOUND_NS = 500_000
_MAX_READINGS = 20


class Clocks(NamedTuple):
    """The clocks to compare; each call gives ns."""

    system: Callable[[], int] = time.time_ns
    """What LoadGen reads."""
    monotonic: Callable[[], int] = time.monotonic_ns
    """Slewed like the system clock, never stepped."""
    raw: Callable[[], int] = lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
    """Neither slewed nor stepped."""


class PauseMeter:
    """Collects pauses; adding is a few integer operations."""

    def __init__(self) -> None:
        self._num = self._total_ns = self._worst_ns = self._num_long = 0

    def add(self, pause_ns: int) -> None:
        """Count one pause."""
        self._num += 1
        self._total_ns += pause_ns
        self._worst_ns = max(self._worst_ns, pause_ns)
        self._num_long += pause_ns > PAUSE_BOUND_NS

    @property
    def pauses(self) -> Pauses:
        """All so far."""
        return Pauses(self._num, self._total_ns, self._worst_ns, self._num_long)


class ClockWatch:
    """Compares the system clock with clocks that nobody sets, from look to look."""

    def __init__(self, clocks: Clocks) -> None:
        """Take the clocks."""
        self._clocks = clocks
        self._looks: list[tuple[int, int, int]] = []
        self._num_looks = 0
        self._worst_step_ns = 0

    def look(self) -> None:
        """Compare once; skipped where no reading of the clocks was short enough to compare."""
        reading = self._read()
        if reading is None:
            return
        self._num_looks += 1
        if self._looks:
            step_ns = reading[1] - self._looks[-1][1]
            if abs(step_ns) > abs(self._worst_step_ns):
                self._worst_step_ns = step_ns
        # The first and the latest.
        self._looks[1:] = [reading]

    @property
    def figures(self) -> ClockFigures:
        """What was seen so far."""
        looks = self._looks or [(0, 0, 0)]
        return ClockFigures(
            num_looks=self._num_looks,
            elapsed_ns=looks[-1][0] - looks[0][0],
            worst_step_ns=self._worst_step_ns,
            drift_ns=looks[-1][2] - looks[0][2],
        )

    def _read(self) -> tuple[int, int, int] | None:
        """Read monotonic time, and the system clock minus monotonic and minus raw."""
        clocks = self._clocks
        for _ in range(_MAX_READINGS):
            before_ns = clocks.monotonic()
            system_ns, raw_ns = clocks.system(), clocks.raw()
            after_ns = clocks.monotonic()
            if after_ns - before_ns <= _READING_BOUND_NS:
                return before_ns, system_ns - (before_ns + after_ns) // 2, system_ns - raw_ns
        return None


class Pulse:
    """Measures from `start` to `stop`: garbage collections, lateness of the loop, steps of the clock.

    A pause of the whole process is one of the loop, and no step: the clocks go on alike. Of a pause of
    the loop up to one tick goes unseen: the tick may not have been due when it began.
    """

    def __init__(self, clocks: Clocks | None = None, tick_s: float = TICK_S) -> None:
        """Prepare; nothing runs yet.

        Args:
            clocks: Others than the system's, for tests.
            tick_s: Between two ticks of the loop.
        """
        self._clock = ClockWatch(clocks or Clocks())
        self._collections, self._lateness = PauseMeter(), PauseMeter()
        self._collection_began_ns = 0
        self._tick_s = tick_s
        self._due_ns = 0
        # The loop's thread ticks, any other may stop.
        self._lock = threading.Lock()
        self._running = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to measure.

        Thread: any; does not block.
        """
        self._running = True
        self._clock.look()
        gc.callbacks.append(self._on_collection)
        loop.call_soon_threadsafe(self._schedule, loop)

    def stop(self) -> None:
        """End; a tick that is overdue now counts, and the clock gets its last look. Again: nothing.

        Thread: any; does not block.
        """
        with self._lock:
            if not self._running:
                return
            self._running = False
            gc.callbacks.remove(self._on_collection)
            if self._due_ns and time.monotonic_ns() > self._due_ns:
                self._lateness.add(time.monotonic_ns() - self._due_ns)
            self._clock.look()

    def telemetry(self) -> Telemetry:
        """Give the figures so far.

        Thread: any.
        """
        return Telemetry(gc=self._collections.pauses, loop=self._lateness.pauses, clock=self._clock.figures)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Thread: the loop's."""
        self._due_ns = time.monotonic_ns() + int(self._tick_s * 1e9)
        loop.call_later(self._tick_s, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        """Thread: the loop's."""
        with self._lock:
            if not self._running:
                return
            self._lateness.add(max(0, time.monotonic_ns() - self._due_ns))
            self._clock.look()
            self._schedule(loop)

    def _on_collection(self, phase: str, _: dict[str, int]) -> None:
        """Thread: whichever collects; only one can at a time."""
        if phase == "start":
            self._collection_began_ns = time.monotonic_ns()
        elif self._collection_began_ns:
            self._collections.add(time.monotonic_ns() - self._collection_began_ns)
            self._collection_began_ns = 0
