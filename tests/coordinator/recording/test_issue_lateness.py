"""The lateness of LoadGen's issue thread, with a clock that is set by hand."""

import threading

from coordinator.recording.issue_lateness import INTERVAL_NS, IssueLateness, Timer

MS = 1_000_000


class PausedClock:
    """A clock that waits exactly, but for one pause."""

    def __init__(self, pause_at: int, pause_ns: int, num_waits: int) -> None:
        """Pause in one of the waits, and end the measurement after all of them."""
        self.now_ns = 7
        self._pauses = {pause_at: pause_ns}
        self._num_waits, self._left = 0, num_waits
        self.ended = threading.Event()

    def wait(self, ended: threading.Event, seconds: float) -> bool:
        """Wait, and count the waits."""
        if self._num_waits == self._left:
            self.ended.set()
            return ended.wait(10)
        self.now_ns += round(seconds * 1e9) + self._pauses.get(self._num_waits, 0)
        self._num_waits += 1
        return False


def test_a_pause_makes_every_due_time_in_it_late() -> None:
    """A pause of 120 ms at an interval of 50 ms: three due times are 120, 70 and 20 ms late, no others."""
    clock = PausedClock(pause_at=2, pause_ns=120 * MS, num_waits=5)
    with IssueLateness(Timer(lambda: clock.now_ns, clock.wait)) as lateness:
        assert clock.ended.wait(10)
    assert [0, 0, 120 * MS, 70 * MS, 20 * MS, 0, 0] == lateness.measured_ns().tolist()
    assert 120 * MS == lateness.worst_ns(10.0)
    assert 0 == lateness.worst_ns(2 * INTERVAL_NS / 1e9)


def test_nothing_is_measured_before_the_block() -> None:
    """Without a measurement the worst is 0."""
    assert (0, 0) == (IssueLateness().worst_ns(10.0), len(IssueLateness().measured_ns()))
