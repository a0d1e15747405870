"""A worker ends the run of a coordinator that keeps its stream open but sends or reads nothing."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protos import worker_pb2 as pb
from tests import fleet
from tests.worker.raw_client import (
    MAX_MODEL_LEN,
    Stream,
    Worker,
    assert_empty,
    connected,
    open_when_free,
    walk,
)
from worker import servicer as servicer_module
from worker import session as session_module
from worker.engine_protocol import Step
from worker.engines.scripted.counting import CountingConfig, CountingEngine

LONG = [10_000, 7]


@contextlib.asynccontextmanager
async def pinging(stream: Stream, interval_s: float = 0.05) -> AsyncIterator[None]:
    """Ping for the length of a block without reading the pongs."""
    stop = asyncio.Event()

    async def ping() -> None:
        while not stop.is_set():
            await stream.send(ping=pb.Ping(nonce=1))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), interval_s)

    task = asyncio.ensure_future(ping())
    try:
        yield
    finally:
        # Not cancelled: gRPC takes no message after a write that was given up.
        stop.set()
        await asyncio.wait({task}, timeout=60)
        # The stream may have ended under it.
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("submits", [True, False])
def test_a_silent_coordinator_loses_its_run(submits: bool) -> None:
    """DEADLINE_EXCEEDED gives the timeout, with or without requests in the engine, and the worker is free."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        if submits:
            await stream.submit(dict.fromkeys(range(20), LONG), budget=10_000)
        assert await stream.refusal() == ("DEADLINE_EXCEEDED", "coordinator silent for 0.5 s")
        assert (await worker.stub.GetInfo(pb.GetInfoRequest())).state == pb.WORKER_STATE_READY
        await assert_empty(await open_when_free(worker, "next"))

    walk(steps, coordinator_timeout_s=0.5)


def test_a_coordinator_that_only_pings_keeps_its_run() -> None:
    """Pings alone keep a run open for four times the timeout."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        async with pinging(stream):
            await asyncio.sleep(2)
        await stream.submit({5: [2, 70]})
        await stream.take_until_ended(5)
        assert stream.answers == {5: [71, 200_002]}

    walk(steps, coordinator_timeout_s=0.5)


def test_a_coordinator_that_reads_nothing_loses_its_run() -> None:
    """A coordinator that pings but reads no frame loses its run; worker and engine are free."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open("unread")
        # Ten million tokens: more than any window between the two takes.
        await stream.submit(dict.fromkeys(range(1000), LONG), budget=10_000)
        async with pinging(stream):
            await assert_empty(await open_when_free(worker, "next"))
        status, reason = await stream.refusal()
        assert (status, reason) == ("DEADLINE_EXCEEDED", "coordinator reads nothing for 1 s")

    engine = CountingEngine(CountingConfig(step_ms=0, max_num_seqs=1000, max_model_len=MAX_MODEL_LEN))
    walk(steps, engine, coordinator_timeout_s=1)


def test_a_worker_that_was_stopped_does_not_blame_its_coordinator(tmp_path: Path) -> None:
    """A worker suspended for longer than the timeout continues its run with exact tokens."""

    async def steps(address: str, pid: int) -> None:
        async with asyncio.timeout(60), connected(address) as channel:
            stream = Stream(channel)
            await stream.open()
            await stream.submit({1: [400, 7]})
            # Longer than a tick of 0.6 s: in the one that the stop falls into, nothing has been heard. Nor
            # does a ping wait in the socket: at times it would be read before the tick ends.
            await asyncio.sleep(0.8)
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(4)
            finally:
                os.kill(pid, signal.SIGCONT)
            async with pinging(stream, interval_s=0.5):
                await stream.take_until_ended(1)
            assert stream.answers == {1: [*range(8, 407), 200_002]}

    with fleet.workers(tmp_path, 1, "--coordinator-timeout-s", "3", "--step-ms", "5") as (worker,):
        asyncio.run(steps(worker.address, worker.process.pid))


class StuckEngine(CountingEngine):
    """An engine whose reset hangs and ignores cancellation."""

    def __init__(self) -> None:
        super().__init__(CountingConfig(step_ms=1, max_model_len=MAX_MODEL_LEN))
        self.release = asyncio.Event()

    async def reset(self) -> None:
        """Hang until released."""
        while not self.release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.release.wait()


class BrokenEngine(CountingEngine):
    """An engine whose reset raises."""

    def __init__(self) -> None:
        super().__init__(CountingConfig(step_ms=1, max_model_len=MAX_MODEL_LEN))

    async def reset(self) -> None:
        """Fail."""
        raise RuntimeError("cannot abort")


@pytest.mark.parametrize("kind", [StuckEngine, BrokenEngine])
@pytest.mark.parametrize("cancels", [True, False])
def test_an_engine_that_is_not_emptied_is_dead(
    kind: type[StuckEngine | BrokenEngine], cancels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reset that hangs or fails the engine is dead: no run holds the worker and none is admitted."""
    monkeypatch.setattr(servicer_module, "RESET_TIMEOUT_S", 0.2)

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        await stream.submit({1: LONG}, budget=10_000)
        await stream.take()
        if cancels:
            stream.call.cancel()
        else:
            await stream.call.done_writing()
        await worker.servicer.wait_engine_death()
        await worker.servicer.wait_idle()
        assert (await worker.stub.GetInfo(pb.GetInfoRequest())).state == pb.WORKER_STATE_FAILED
        assert (await worker.stub.GetLoad(pb.GetLoadRequest())).run_id == ""
        if isinstance(worker.engine, StuckEngine):
            worker.engine.release.set()

    walk(steps, kind())


class StubbornEngine(CountingEngine):
    """An engine whose step ignores cancellation until the engine is reset."""

    def __init__(self) -> None:
        super().__init__(CountingConfig(step_ms=1, max_model_len=MAX_MODEL_LEN))
        self.release = asyncio.Event()
        self.stuck = True

    async def reset(self) -> None:
        """Release the step and reset."""
        self.release.set()
        await super().reset()

    async def step(self) -> Step:
        """Hang until the engine is reset."""
        while self.stuck and not self.release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.release.wait()
        self.stuck = False
        return await super().step()


def test_a_loop_that_does_not_end_does_not_hold_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that ignores its cancellation delays the reset by END_TIMEOUT_S at most."""
    monkeypatch.setattr(session_module, "END_TIMEOUT_S", 0.2)

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        await stream.end()
        assert isinstance(worker.engine, StubbornEngine)
        assert worker.engine.release.is_set()
        await worker.servicer.wait_idle()

    walk(steps, StubbornEngine())
