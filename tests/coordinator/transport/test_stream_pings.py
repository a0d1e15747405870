"""When a worker is pinged: each second."""

import asyncio

import numpy as np

from coordinator.transport.stream import Stream
from protos.columns import TokenColumns
from tests.coordinator.transport.scripted_worker import PATIENT, Scene, act, drop, open_stream

NUM_BEATS = 10


def test_a_worker_whose_frames_come_is_pinged_at_each_beat() -> None:
    """Ten beats, a frame before each, are ten pings after the one at the start: pongs tell load and clock."""
    wanted, came, heard = asyncio.Event(), asyncio.Event(), asyncio.Event()
    pings = []

    async def script(scene: Scene) -> None:
        await scene.open()
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
    assert 1 + NUM_BEATS == len(pings)


def test_a_quiet_worker_is_pinged_at_each_beat() -> None:
    """Nothing comes, not even a pong: ten beats are ten pings, after the one at the start."""
    heard = asyncio.Event()
    pings = []

    async def script(scene: Scene) -> None:
        await scene.open()
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
