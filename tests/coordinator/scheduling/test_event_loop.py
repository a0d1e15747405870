"""The thread of the event loop: the main thread does not wait for one that hangs."""

import asyncio
import threading

import pytest

from coordinator.scheduling import event_loop
from coordinator.scheduling.event_loop import EventLoop, EventLoopHung
from coordinator.transport.access import Access
from coordinator.transport.fleet import Patience
from coordinator.transport.stream import Limits


def test_a_loop_that_makes_no_turn_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A callback does not return: a call without a timeout ends by an error that says so."""
    monkeypatch.setattr(event_loop, "TURN_TIMEOUT_S", 1.0)
    patience = Patience(limits=Limits(10.0, 10.0), no_worker_s=10.0, continues=True)
    goes_on = threading.Event()
    with EventLoop([], Access(), patience, lambda _: None) as loop:
        try:
            loop.loop.call_soon_threadsafe(goes_on.wait, 60)
            with pytest.raises(EventLoopHung, match="no turn for 1 s"):
                loop.call(asyncio.sleep(0))
        finally:
            goes_on.set()
    loop.loop.close()


def test_a_loop_that_turns_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that takes longer than the limit returns its result: the loop turns meanwhile."""
    monkeypatch.setattr(event_loop, "TURN_TIMEOUT_S", 1.0)
    patience = Patience(limits=Limits(10.0, 10.0), no_worker_s=10.0, continues=True)
    with EventLoop([], Access(), patience, lambda _: None) as loop:
        assert 5 == loop.call(asyncio.sleep(3.0, result=5))
    loop.loop.close()
