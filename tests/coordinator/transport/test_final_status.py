"""What a person is told when a stream ends, and what counts as progress: against a scripted worker."""

import asyncio

import grpc
import pytest

import coordinator.transport.stream
from coordinator.transport.stream import Limits, Stream, WorkerLost
from protos import worker_pb2 as pb
from tests.coordinator.transport.scripted_worker import (
    Scene,
    act,
    drop,
    loss_of,
    open_stream,
    prompts,
    refusal_of,
)


def test_the_workers_words_survive_a_write_under_way() -> None:
    """However a run's own messages cross the worker's end of it, the reason is the worker's."""

    async def script(scene: Scene) -> None:
        await scene.open()
        await scene.bring(5)
        await scene.call.abort(grpc.StatusCode.UNAVAILABLE, "engine died: CUDA error")

    reasons = {loss_of(script, sent=prompts(3, 3, 3)).reason for _ in range(20)}
    assert {"UNAVAILABLE: engine died: CUDA error"} == reasons


@pytest.mark.parametrize("first", ["write", "worker"])
def test_the_workers_words_come_before_a_broken_writes(first: str) -> None:
    """A write's own error, whether it comes before the worker's status or after it, does not replace it."""
    broken = asyncio.Event()

    async def script(scene: Scene) -> None:
        await scene.open()
        if first == "write":
            await broken.wait()
        await scene.call.abort(grpc.StatusCode.UNAVAILABLE, "engine died")

    async def steps(stream: Stream) -> None:
        await open_stream(stream)
        call = stream._open_call
        carried = asyncio.ensure_future(stream.carry(drop))
        if first == "worker":
            await call.code()
        # What grpc.aio does in a write that fails.
        call._cython_call.set_internal_error("Failed 'execute_batch': grpc_call_error=...")
        assert "Internal error from Core" == await call.details()
        await asyncio.sleep(0)
        broken.set()
        with pytest.raises(WorkerLost, match=r"UNAVAILABLE: engine died$"):
            await carried

    act(script, steps)


def test_an_error_of_this_end_is_told_where_the_worker_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A write that breaks alone is the reason once the wait for the worker's status is over."""
    monkeypatch.setattr(coordinator.transport.stream, "STATUS_TIMEOUT_S", 0.05)

    async def script(scene: Scene) -> None:
        await scene.open()
        await scene.hear("never")

    async def steps(stream: Stream) -> None:
        await open_stream(stream)
        carried = asyncio.ensure_future(stream.carry(drop))
        await asyncio.sleep(0)
        stream._open_call._cython_call.set_internal_error("Failed 'execute_batch': grpc_call_error=...")
        with pytest.raises(WorkerLost, match=r"INTERNAL: Internal error from Core$"):
            await carried

    act(script, steps)


def test_another_first_message_is_named() -> None:
    """A worker that answers open with tokens is lost with that kind of message."""

    async def script(scene: Scene) -> None:
        await scene.hear("open")
        await scene.bring(5)
        await scene.hear("never")

    assert "answers open with tokens" == refusal_of(script).reason


def test_frames_without_tokens_are_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with requests that answers pings and sends empty frames is stalled."""
    monkeypatch.setattr(coordinator.transport.stream, "BEAT_INTERVAL_S", 0.02)

    async def script(scene: Scene) -> None:
        await scene.open()
        for _ in range(100):
            ping = await scene.hear("ping")
            await scene.say(pong=pb.Pong(nonce=ping.nonce, worker_ns=1))
            await scene.bring()
        await scene.call.abort(grpc.StatusCode.DATA_LOSS, "was never found out")

    assert "1 requests, no token for 0.2 s" == loss_of(script, Limits(30, 0.2), prompts(3)).reason
