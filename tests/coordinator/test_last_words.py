"""What a person is told when a stream ends, and what counts as progress: against a scripted worker."""

import grpc
import pytest

import coordinator.stream
from coordinator.stream import Limits
from protos import worker_pb2 as pb
from tests.coordinator.scripted_worker import Scene, loss_of, prompts, refusal_of


def test_the_workers_words_survive_a_write_under_way() -> None:
    """However a run's own messages cross the worker's end of it, the reason is the worker's."""

    async def script(scene: Scene) -> None:
        await scene.open()
        await scene.bring(5)
        await scene.call.abort(grpc.StatusCode.UNAVAILABLE, "engine died: CUDA error")

    reasons = {loss_of(script, sent=prompts(3, 3, 3)).reason for _ in range(20)}
    assert {"UNAVAILABLE: engine died: CUDA error"} == reasons


def test_another_first_message_is_named() -> None:
    """A worker that answers open with tokens is lost with that kind of message."""

    async def script(scene: Scene) -> None:
        await scene.hear("open")
        await scene.bring(5)
        await scene.hear("never")

    assert "answers open with tokens" == refusal_of(script).reason


def test_frames_without_tokens_are_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with requests that answers pings and sends empty frames is stalled."""
    monkeypatch.setattr(coordinator.stream, "BEAT_INTERVAL_S", 0.02)

    async def script(scene: Scene) -> None:
        await scene.open()
        for _ in range(100):
            ping = await scene.hear("ping")
            await scene.say(pong=pb.Pong(nonce=ping.nonce, worker_ns=1))
            await scene.bring()
        await scene.call.abort(grpc.StatusCode.DATA_LOSS, "was never found out")

    assert "1 requests, no token for 0.2 s" == loss_of(script, Limits(1.0, 0.2), prompts(3)).reason
