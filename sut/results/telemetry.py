"""What kept the coordinator's process from running during a test, and its clocks; with the bounds of each."""

from dataclasses import dataclass
from typing import NamedTuple

PAUSE_BOUND_NS = 100_000_000
"""Longer pauses of the coordinator are reported as a warning: they add to the requests' latency."""
CORE_WAIT_BOUND = 0.05
"""Larger share of the test in which the event loop waited for a core: frames wait as often."""
THROTTLED_BOUND = 0.01
"""Larger share of a CPU quota's periods in which the kernel stopped the coordinator: LoadGen judges p99."""
STEP_BOUND_NS = 5_000_000
"""Larger steps of the system clock make a run INVALID."""
DRIFT_BOUND_PPM = 500
"""Maximum slew rate of the Linux clock (adjtimex, MAXFREQ)."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """Statistics of one kind of pause."""

    num: int = 0
    """Number of measurements."""
    total_ns: int = 0
    worst_ns: int = 0
    num_long: int = 0
    """Number above PAUSE_BOUND_NS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFigures:
    """The system clock, which LoadGen uses, compared with clocks that cannot be set."""

    num_looks: int
    elapsed_ns: int
    """Time between the first and the last reading, by CLOCK_MONOTONIC."""
    worst_step_ns: int
    """Largest change against CLOCK_MONOTONIC between two readings, signed; slewing moves both clocks."""
    drift_ns: int
    """Change against CLOCK_MONOTONIC_RAW between the first and the last reading, signed; includes slewing."""


class CoreFigures(NamedTuple):
    """How the event loop's thread got a core during the test."""

    elapsed_ns: int
    waited_ns: int
    """Time in which the thread was ready to run and had no core."""
    num_periods: int
    """Periods of the process's CPU quota; 0 without one."""
    num_throttled: int
    """Those in which the kernel stopped the process."""

    @property
    def is_short(self) -> bool:
        """Whether the lack of a core may show in the run's latencies."""
        waited_long = self.waited_ns > CORE_WAIT_BOUND * self.elapsed_ns
        return waited_long or self.num_throttled > THROTTLED_BOUND * self.num_periods

    def __str__(self) -> str:
        """Return a clause for the verdict."""
        share = self.waited_ns / max(self.elapsed_ns, 1)
        text = f"the event loop waited {self.waited_ns / 1e9:.2f} s for a core, {share:.1%} of the test"
        if self.num_periods:
            text += (
                f"; a CPU quota stopped the coordinator in {self.num_throttled} of {self.num_periods} periods"
            )
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Pauses and clock of the coordinator's process during a run."""

    gc: Pauses
    """Garbage collections, in any thread."""
    loop: Pauses
    """Delays of a timer on the event loop, which is due once a second."""
    issue: Pauses = Pauses()
    """Delays of a thread that waits as LoadGen's does; see IssueLateness."""
    cores: CoreFigures | None = None
    """None: not known."""
    clock: ClockFigures
