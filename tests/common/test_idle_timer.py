"""Silence is counted in the waking time of this process, not in the clock's."""

import pytest

import common.idle_timer
from common.idle_timer import IdleTimer


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Put a clock of our own under IdleTimer; its steps are sums of powers of two, so sums are exact."""
    clock = Clock()
    monkeypatch.setattr(common.idle_timer.time, "monotonic", clock)
    return clock


def ticks(quiet: IdleTimer, clock: Clock, *steps_s: float) -> list[float]:
    """Let time pass in steps with a tick after each; returns the silence after each."""
    silence = []
    for step_s in steps_s:
        clock.now_s += step_s
        quiet.tick()
        silence.append(quiet.quiet_s)
    return silence


def test_silence_adds_up(clock: Clock) -> None:
    """Without a sign, each tick adds the time since the last one."""
    quiet = IdleTimer(1.0)
    assert quiet.quiet_s == 0.0
    assert ticks(quiet, clock, 1.0, 1.25, 0.75, 0.0, 2.0) == [1.0, 2.25, 3.0, 3.0, 5.0]


def test_a_sign_ends_the_silence_once(clock: Clock) -> None:
    """A sign since the last tick makes the silence 0 at the tick, and none after it."""
    quiet = IdleTimer(1.0)
    assert ticks(quiet, clock, 1.0, 1.0) == [1.0, 2.0]
    quiet.hear()
    assert quiet.quiet_s == 2.0
    quiet.hear()
    assert ticks(quiet, clock, 1.0, 1.0, 1.0) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("tick_s", "added_s"), [(1.0, 2.0), (0.5, 1.0)])
def test_a_pause_of_our_own_is_not_the_peers(clock: Clock, tick_s: float, added_s: float) -> None:
    """However long this process stood still, one tick adds two tick lengths at most."""
    quiet = IdleTimer(tick_s)
    assert ticks(quiet, clock, tick_s, 86_400.0, tick_s) == [tick_s, tick_s + added_s, 2 * tick_s + added_s]


def test_a_sign_during_a_pause_counts(clock: Clock) -> None:
    """What was heard before or while this process stood still leaves no silence behind."""
    quiet = IdleTimer(1.0)
    quiet.hear()
    assert ticks(quiet, clock, 600.0, 1.0) == [0.0, 1.0]
