"""Waits of the main thread for a call on another thread, while the whole process is suspended."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from types import ModuleType, SimpleNamespace

import pytest

from common import idle_timer
from coordinator.recording import file_thread
from coordinator.recording.file_thread import FileThread
from coordinator.scheduling import event_loop
from coordinator.scheduling.event_loop import EventLoop
from coordinator.transport.access import Access
from coordinator.transport.fleet import Patience
from coordinator.transport.stream import Limits

BOUND_S = 2.0


def call_file_thread(work: Callable[[], bool]) -> bool:
    """Make a file system call."""
    with FileThread() as files:
        return files.call(work, BOUND_S)


def call_event_loop(work: Callable[[], bool]) -> bool:
    """Run a coroutine on the loop."""

    async def on_loop() -> bool:
        return await asyncio.to_thread(work)

    patience = Patience(Limits(5, 60), 60.0, True)
    with EventLoop((), Access(), patience, pytest.fail) as loop:
        done = loop.call(on_loop(), BOUND_S)
    loop.loop.close()
    return done


@pytest.mark.parametrize(
    ("module", "call"),
    [(file_thread, call_file_thread), (event_loop, call_event_loop)],
    ids=["file thread", "event loop"],
)
def test_time_in_which_the_process_is_suspended_does_not_count(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, call: Callable[[Callable[[], bool]], bool]
) -> None:
    """100 s pass within one wait, as after SIGSTOP: more than the bound of 2 s, and the call returns."""
    now_s = [0.0]
    waited: list[Future[object]] = []

    def wait_suspended(futures: Sequence[Future[object]], _: float) -> object:
        if futures[0] in waited:
            return wait(futures, 60.0)
        waited.append(futures[0])
        now_s[0] += 100.0
        return SimpleNamespace(done=set())

    clock = SimpleNamespace(monotonic=lambda: now_s[0], monotonic_ns=lambda: int(now_s[0] * 1e9))
    monkeypatch.setattr(idle_timer, "time", clock)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "wait", wait_suspended)
    assert call(lambda: True)
