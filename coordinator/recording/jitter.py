"""Jitter of the coordinator: pauses of its threads, and steps of the system clock that LoadGen reads."""

import asyncio
import gc
import heapq
import threading
import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

from coordinator.recording.core_meter import CoreMeter
from sut.results.telemetry import PAUSE_BOUND_NS, ClockFigures, Pauses, Telemetry

TICK_S = 1.0
MAX_PAUSES = 1000
MIN_PAUSE_NS = 10_000_000
"""Shorter pauses are not listed one by one."""
# The three clocks are read one after the other. A reading that took longer than this is repeated: the delay
# would be taken for a step.
_READING_BOUND_NS = 500_000
_MAX_READINGS = 20


class Clocks(NamedTuple):
    """The clocks to compare; each returns ns."""

    system: Callable[[], int] = time.time_ns
    """The clock that LoadGen reads."""
    monotonic: Callable[[], int] = time.monotonic_ns
    """Slewed like the system clock, never stepped."""
    raw: Callable[[], int] = partial(time.clock_gettime_ns, time.CLOCK_MONOTONIC_RAW)
    """Neither slewed nor stepped."""


class ClockReading(NamedTuple):
    """The three clocks at one moment."""

    monotonic_ns: int
    ahead_of_monotonic_ns: int
    """System clock minus the monotonic clock."""
    ahead_of_raw_ns: int
    """System clock minus the raw clock."""


NO_READING = ClockReading(0, 0, 0)


class LongPause(NamedTuple):
    """One pause of the coordinator, or one time at which its issue thread was late."""

    kind: str
    """gc, event loop or issue."""
    began_ns: int
    """Coordinator's monotonic clock."""
    duration_ns: int


class PauseList:
    """The longest pauses of a run; written by one thread at a time."""

    def __init__(self, max_pauses: int = MAX_PAUSES) -> None:
        """Start empty.

        Args:
            max_pauses: Number of pauses that are kept.
        """
        self._max_pauses = max_pauses
        self._longest: list[tuple[int, LongPause]] = []
        """A heap by duration."""

    def add(self, kind: str, began_ns: int, duration_ns: int) -> None:
        """Keep a pause if it is among the longest."""
        if duration_ns < MIN_PAUSE_NS:
            return
        entry = (duration_ns, LongPause(kind, began_ns, duration_ns))
        push = heapq.heappush if len(self._longest) < self._max_pauses else heapq.heappushpop
        push(self._longest, entry)

    def in_order(self) -> list[LongPause]:
        """Return the pauses kept, by their begin."""
        return sorted((pause for _, pause in self._longest), key=lambda pause: pause.began_ns)


class PauseMeter:
    """Counts pauses; adding one takes a few integer operations."""

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
        """Figures of all pauses so far."""
        return Pauses(self._num, self._total_ns, self._worst_ns, self._num_long)


class ClockMonitor:
    """Compares the system clock, repeatedly, with clocks that are never set."""

    def __init__(self, clocks: Clocks) -> None:
        """Take the clocks."""
        self._clocks = clocks
        self._first: ClockReading | None = None
        self._last: ClockReading | None = None
        self._num_readings = 0
        self._worst_step_ns = 0

    def sample(self) -> None:
        """Compare once; skipped if every reading of the clocks took too long to be compared."""
        reading = self._read()
        if reading is None:
            return
        self._num_readings += 1
        if self._first is None:
            self._first = reading
        if self._last is not None:
            step_ns = reading.ahead_of_monotonic_ns - self._last.ahead_of_monotonic_ns
            if abs(step_ns) > abs(self._worst_step_ns):
                self._worst_step_ns = step_ns
        self._last = reading

    @property
    def figures(self) -> ClockFigures:
        """Figures of all comparisons so far."""
        first, last = self._first or NO_READING, self._last or NO_READING
        return ClockFigures(
            num_looks=self._num_readings,
            elapsed_ns=last.monotonic_ns - first.monotonic_ns,
            worst_step_ns=self._worst_step_ns,
            drift_ns=last.ahead_of_raw_ns - first.ahead_of_raw_ns,
        )

    def _read(self) -> ClockReading | None:
        clocks = self._clocks
        for _ in range(_MAX_READINGS):
            before_ns = clocks.monotonic()
            system_ns, raw_ns = clocks.system(), clocks.raw()
            after_ns = clocks.monotonic()
            if after_ns - before_ns <= _READING_BOUND_NS:
                middle_ns = (before_ns + after_ns) // 2
                return ClockReading(before_ns, system_ns - middle_ns, system_ns - raw_ns)
        return None


class JitterMeter:
    """Measures, within a `with` block: garbage collections, the event loop's delays and core, clock steps.

    A pause of the whole process delays the loop and is no clock step: all clocks advance alike. Up to one
    tick length of a pause is not measured: the next tick may not have been due when the pause began.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clocks: Clocks | None = None,
        tick_s: float = TICK_S,
        pauses: PauseList | None = None,
    ) -> None:
        """Prepare; nothing is measured yet.

        Args:
            loop: The loop whose delays are measured.
            clocks: Used instead of the system's, by tests.
            tick_s: Seconds between two ticks of the loop.
            pauses: Receives the long pauses; None: a list of this object's own.
        """
        self._loop = loop
        self._clock = ClockMonitor(clocks or Clocks())
        self._collections, self._delays = PauseMeter(), PauseMeter()
        self._list = pauses or PauseList()
        self._cores = CoreMeter()
        self._collection_began_ns = 0
        self._tick_s = tick_s
        self._due_ns = 0
        # Ticks run on the loop's thread, while the block may end on another.
        self._lock = threading.Lock()
        self._running = False

    def __enter__(self) -> Self:
        """Start measuring; does not block."""
        self._running = True
        self._clock.sample()
        gc.callbacks.append(self._on_collection)
        self._loop.call_soon_threadsafe(self._begin)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop measuring, with a last look at the clock; a tick that is overdue counts. Does not block."""
        with self._lock:
            self._running = False
            gc.callbacks.remove(self._on_collection)
            self._cores.end()
            if self._due_ns and time.monotonic_ns() > self._due_ns:
                self._delay(time.monotonic_ns() - self._due_ns)
            self._clock.sample()

    def telemetry(self) -> Telemetry:
        """Return the figures so far.

        Thread: any.
        """
        return Telemetry(
            gc=self._collections.pauses,
            loop=self._delays.pauses,
            cores=self._cores.figures,
            clock=self._clock.figures,
        )

    def _begin(self) -> None:
        """Thread: event loop."""
        self._cores.begin()
        self._schedule()

    def _schedule(self) -> None:
        """Thread: event loop."""
        self._due_ns = time.monotonic_ns() + int(self._tick_s * 1e9)
        self._loop.call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        """Thread: event loop."""
        with self._lock:
            if not self._running:
                return
            self._delay(max(0, time.monotonic_ns() - self._due_ns))
            self._clock.sample()
            self._schedule()

    def _delay(self, delay_ns: int) -> None:
        """Count one delay of the event loop."""
        self._delays.add(delay_ns)
        self._list.add("event loop", self._due_ns, delay_ns)

    def _on_collection(self, phase: str, _: dict[str, int]) -> None:
        """Thread: whichever collects; only one can collect at a time."""
        if phase == "start":
            self._collection_began_ns = time.monotonic_ns()
        elif self._collection_began_ns:
            pause_ns = time.monotonic_ns() - self._collection_began_ns
            self._collections.add(pause_ns)
            self._list.add("gc", self._collection_began_ns, pause_ns)
            self._collection_began_ns = 0
