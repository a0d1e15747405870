"""The lateness of LoadGen's issue thread, with a clock that is set by hand."""

import threading

from coordinator.recording.issue_lateness import INTERVAL_NS, IssueLateness, Timer
from sut.results.telemetry import Pauses

MS = 1_000_000


class PausedClock:
    """A clock whose sleeps are exact, but for one pause."""

    def __init__(self, pause_at: int, pause_ns: int, num_sleeps: int) -> None:
        """Pause in one of the sleeps, and stop the clock after all of them."""
        self.now_ns = 7
        self._pauses = {pause_at: pause_ns}
        self._num_sleeps, self._most = 0, num_sleeps
        self.stopped, self._released = threading.Event(), threading.Event()

    def sleep(self, seconds: float) -> None:
        """Advance the clock; the thread stays in the sleep in which the clock has stopped."""
        if self._num_sleeps == self._most:
            self.stopped.set()
            self._released.wait(10)
            return
        self.now_ns += round(seconds * 1e9) + self._pauses.get(self._num_sleeps, 0)
        self._num_sleeps += 1

    def release(self) -> None:
        """End the last sleep."""
        self._released.set()


def test_a_pause_makes_every_due_time_in_it_late() -> None:
    """A pause of 220 ms at an interval of 97 ms: three due times are 220, 123 and 26 ms late, no others."""
    clock = PausedClock(pause_at=2, pause_ns=220 * MS, num_sleeps=5)
    with IssueLateness(Timer(lambda: clock.now_ns, clock.sleep)) as lateness:
        assert clock.stopped.wait(60)
    assert [0, 0, 220 * MS, 123 * MS, 26 * MS, 0, 0] == lateness.measured_ns().tolist()
    assert 220 * MS == lateness.worst_ns(10.0)
    # One pause: due at 7 ns + 3 intervals.
    assert [(7 + 291 * MS, 220 * MS)] == lateness.late_periods(10 * MS)
    assert Pauses(num=5, total_ns=220 * MS, worst_ns=220 * MS, num_long=1) == lateness.pauses
    assert [] == lateness.late_periods(221 * MS)
    assert 0 == lateness.worst_ns(2 * INTERVAL_NS / 1e9)
    clock.release()


def test_nothing_is_measured_before_the_block() -> None:
    """Without a measurement the worst is 0."""
    assert (0, 0) == (IssueLateness().worst_ns(10.0), len(IssueLateness().measured_ns()))
