"""When a worker is pinged, and what a frame tells instead of a pong."""

import asyncio

import numpy as np
import pytest

from coordinator.transport.stream import Stream
from protos import worker_pb2 as pb
from protos.columns import TokenColumns
from tests.coordinator.transport.scripted_worker import (
    PATIENT,
    Scene,
    act,
    drop,
    good_frame,
    open_stream,
)

NUM_BEATS = 10


async def answer_open(scene: Scene, coordinator_timeout_s: float) -> None:
    """Open as a worker does that ends a run after so long a silence."""
    opening = await scene.hear("open")
    info = pb.WorkerInfo(coordinator_timeout_s=coordinator_timeout_s)
    await scene.say(opened=pb.Opened(run_id=opening.run_id, info=info))


@pytest.mark.parametrize(
    ("coordinator_timeout_s", "num_pings"),
    # One at the start; a third of the timeout between two, in beats of a second: 3, at most 5, at least 1.
    [(9.0, 1 + 3), (11.9, 1 + 3), (86_400.0, 1 + 2), (2.0, 1 + 10), (0.0, 1 + 10)],
)
def test_a_worker_whose_frames_come_is_pinged_for_its_own_sake(
    coordinator_timeout_s: float, num_pings: int
) -> None:
    """Of ten beats, a frame before each, every so many-th pings; the worker then hears in time."""
    wanted, came, heard = asyncio.Event(), asyncio.Event(), asyncio.Event()
    pings = []

    async def script(scene: Scene) -> None:
        await answer_open(scene, coordinator_timeout_s)
        for _ in range(NUM_BEATS):
            await wanted.wait()
            wanted.clear()
            await scene.bring(5)
        await scene.hear("cancel")
        pings.extend(m for m in scene.heard if m.WhichOneof("message") == "ping")
        heard.set()
        await scene.hear("never")

    def deliver(_: TokenColumns) -> None:
        came.set()

    async def steps(stream: Stream) -> None:
        await open_stream(stream)
        carry = asyncio.ensure_future(stream.carry(deliver))
        for _ in range(NUM_BEATS):
            wanted.set()
            await came.wait()
            came.clear()
            stream.beat(PATIENT, 0)
        await mark(stream, heard)
        carry.cancel()

    act(script, steps)
    assert num_pings == len(pings)


def test_a_frame_with_the_load_replaces_the_reading_of_the_last_pong() -> None:
    """A frame that reports 7 running, 2 waiting, half of the KV cache: the reading until the next report."""

    async def script(scene: Scene) -> None:
        await scene.open()
        frame = good_frame([5], 0)
        frame.load.CopyFrom(pb.EngineLoad(running=7, waiting=2, kv_use=0.5))
        await scene.say(tokens=frame)
        await scene.say(tokens=good_frame([6], 1))
        await scene.hear("never")

    async def steps(stream: Stream) -> None:
        await open_stream(stream)
        frames, both = [], asyncio.Event()

        def deliver(columns: TokenColumns) -> None:
            frames.append(columns)
            if len(frames) == 2:
                both.set()

        carry = asyncio.ensure_future(stream.carry(deliver))
        await both.wait()
        assert (7, 2, 0.5) == stream.reading[:3]
        carry.cancel()

    act(script, steps)


def test_a_quiet_worker_is_pinged_at_each_beat() -> None:
    """Nothing comes, not even a pong: ten beats are ten pings, after the one at the start."""
    heard = asyncio.Event()
    pings = []

    async def script(scene: Scene) -> None:
        await answer_open(scene, 15.0)
        await scene.hear("cancel")
        pings.extend(m for m in scene.heard if m.WhichOneof("message") == "ping")
        heard.set()
        await scene.hear("never")

    async def steps(stream: Stream) -> None:
        await open_stream(stream)
        carry = asyncio.ensure_future(stream.carry(drop))
        for _ in range(NUM_BEATS):
            await asyncio.sleep(0)
            stream.beat(PATIENT, 0)
        await mark(stream, heard)
        carry.cancel()

    act(script, steps)
    assert 1 + NUM_BEATS == len(pings)


async def mark(stream: Stream, heard: asyncio.Event) -> None:
    """Send what no ping follows, and wait until the worker has it."""
    stream.cancel_requests(np.array([1], np.uint64))
    await heard.wait()
