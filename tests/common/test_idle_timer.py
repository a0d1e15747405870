"""The idle timer counts only time in which this process could have received something."""

import pytest

import common.idle_timer
from common.idle_timer import IdleTimer


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Replace the clock of IdleTimer; steps are sums of powers of two, so that sums are exact."""
    clock = Clock()
    monkeypatch.setattr(common.idle_timer.time, "monotonic", clock)
    return clock


def ticks(timer: IdleTimer, clock: Clock, *steps_s: float) -> list[float]:
    """Advance the clock in steps with a tick after each; returns the idle time after each."""
    idle = []
    for step_s in steps_s:
        clock.now_s += step_s
        timer.tick()
        idle.append(timer.idle_s)
    return idle


def test_idle_time_adds_up(clock: Clock) -> None:
    """Without activity each tick adds the time since the last one."""
    timer = IdleTimer(1.0)
    assert timer.idle_s == 0.0
    assert ticks(timer, clock, 1.0, 1.25, 0.75, 0.0, 2.0) == [1.0, 2.25, 3.0, 3.0, 5.0]


def test_activity_resets_the_timer_once(clock: Clock) -> None:
    """Activity since the last tick makes the idle time 0 at the next tick only."""
    timer = IdleTimer(1.0)
    assert ticks(timer, clock, 1.0, 1.0) == [1.0, 2.0]
    timer.mark_active()
    assert timer.idle_s == 2.0
    timer.mark_active()
    assert ticks(timer, clock, 1.0, 1.0, 1.0) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("tick_s", "added_s"), [(1.0, 2.0), (0.5, 1.0)])
def test_a_suspended_process_does_not_make_the_peer_idle(clock: Clock, tick_s: float, added_s: float) -> None:
    """However long this process was suspended, one tick adds at most two tick lengths."""
    timer = IdleTimer(tick_s)
    assert ticks(timer, clock, tick_s, 86_400.0, tick_s) == [tick_s, tick_s + added_s, 2 * tick_s + added_s]


def test_activity_during_a_suspension_counts(clock: Clock) -> None:
    """Activity before or during a suspension leaves no idle time."""
    timer = IdleTimer(1.0)
    timer.mark_active()
    assert ticks(timer, clock, 600.0, 1.0) == [0.0, 1.0]
