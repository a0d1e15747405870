"""A worker process that holds a prompt back for its group, over a real socket."""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from protos import worker_pb2 as pb
from tests import fleet
from tests.worker.raw_client import Stream
from tests.worker.test_server import walk

STOP_TOKEN_ID = 200_002
# The longest.
HELD_S = 10
# With 64 slots a group is at most two prompts.
GROUPS = ("--max-num-seqs", "64", "--prefill-group-tokens", "100", "--prefill-hold-ms", str(1000 * HELD_S))


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[fleet.WorkerProcess]:
    """Start a worker with groups."""
    with fleet.workers(tmp_path, 1, "--step-ms", "1", "--drain-timeout-s", "60", *GROUPS) as started:
        yield started[0]


async def hold(stream: Stream, num_running_tokens: int) -> None:
    """Let request 1 run and request 2, whose group has room for another prompt, be held."""
    await stream.submit({1: [num_running_tokens, 7]})
    await stream.take()
    await stream.submit({2: [3, 20]})
    load = (await stream.ping(1)).load
    assert (load.running, load.waiting) == (1, 1)


def test_a_drain_answers_what_is_held(worker: fleet.WorkerProcess) -> None:
    """SIGTERM while a prompt is held: it is answered as soon as the engine is idle; exit code 0."""

    async def steps(channel: grpc.aio.Channel) -> None:
        stream = Stream(channel)
        await stream.open("patient")
        await hold(stream, num_running_tokens=300)
        worker.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(HELD_S - 1):
            await stream.take_until_ended(1, 2)
        assert stream.answers == {1: [*range(8, 307), STOP_TOKEN_ID], 2: [21, 22, STOP_TOKEN_ID]}
        await stream.end()
        assert await asyncio.to_thread(worker.process.wait, 60) == 0

    walk(worker, steps)


def test_the_next_run_gets_nothing_that_was_held(worker: fleet.WorkerProcess) -> None:
    """The coordinator is gone while a prompt is held; a run that begins at once has the same names."""

    async def steps(channel: grpc.aio.Channel) -> None:
        gone = Stream(channel)
        await gone.open("gone")
        await hold(gone, num_running_tokens=9000)
        gone.call.cancel()
        while True:
            if not (await gone.stub.GetLoad(pb.GetLoadRequest())).run_id:
                break
            await asyncio.sleep(0.01)
        stream = Stream(channel)
        await stream.open("next")
        load = (await stream.ping(1)).load
        assert (load.running, load.waiting) == (0, 0)
        await stream.submit({1: [2, 40], 2: [3, 50], 3: [1, 60]})
        async with asyncio.timeout(HELD_S - 1):
            await stream.take_until_ended(1, 2, 3)
        assert stream.answers == {1: [41, STOP_TOKEN_ID], 2: [51, 52, STOP_TOKEN_ID], 3: [STOP_TOKEN_ID]}
        await stream.end()

    walk(worker, steps)
