"""Mutated messages to a worker: it refuses them, keeps serving, and answers the next run."""

import asyncio
import collections
import contextlib
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS, PROTOCOL_VERSION, SERVICE, PromptColumns, pack_submit
from tests import fleet
from tests.faults.fuzz import mutations
from tests.worker.raw_client import Stream

logger = logging.getLogger(__name__)

SPEC = pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=64, seed=5)
OPEN = pb.ToWorker(open=pb.Open(protocol_version=PROTOCOL_VERSION, run_id="fuzz", spec=SPEC))
STEP_TIMEOUT_S = 60.0
MAX_FRAMES_PER_STREAM = 50
# A stream that a message ends must say whose fault it was; UNKNOWN and INTERNAL would be the worker's.
REFUSALS = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"}
FLAGS = ("--step-ms", "0", "--max-model-len", "4096", "--frame-hold-ms", "0")


def submit(prompts: list[list[int]], first: int, produced: int) -> pb.ToWorker:
    """Pack prompts with consecutive request names starting at `first`."""
    num = len(prompts)
    columns = PromptColumns(
        np.arange(first, first + num, dtype=np.uint64),
        np.array([len(prompt) for prompt in prompts], np.uint32),
        np.array([token for prompt in prompts for token in prompt], np.int32),
        np.full(num, 16, np.uint32),
        np.full(num, produced, np.uint32),
    )
    return pb.ToWorker(submit=pack_submit(columns))


VALID = [
    message.SerializeToString()
    for message in (
        OPEN,
        submit([[4, 9, 17], [2, 5]], first=1, produced=0),
        submit([[9, 7, 8, 100]] * 5, first=1 << 33, produced=2),
        submit([[3] * 300], first=7, produced=0),
        pb.ToWorker(cancel=pb.Cancel(requests=bytes([1, 0, 0, 0, 0, 0, 0, 0] * 2))),
        pb.ToWorker(ping=pb.Ping(nonce=1 << 40)),
    )
]


class Fuzzer:
    """Streams of raw bytes to one worker, and their outcomes."""

    def __init__(self, channel: grpc.aio.Channel, frames: Iterator[bytes]) -> None:
        """Share one source of frames among all streams."""
        self._generate = channel.stream_stream(
            f"/{SERVICE}/Generate", request_serializer=None, response_deserializer=None
        )
        self._frames = frames
        self._nonces = itertools.count(1 << 63)
        self.statuses: collections.Counter[str] = collections.Counter()
        self.num_survived = 0

    async def round(self, num_in_runs: int, num_first: int) -> None:
        """Send frames in open runs and, on two parallel streams, frames as first messages."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_in_runs(num_in_runs))
            for _ in range(2):
                group.create_task(self._send_first(num_first // 2))

    async def _send_first(self, num: int) -> None:
        for frame in itertools.islice(self._frames, num):
            async with asyncio.timeout(STEP_TIMEOUT_S):
                call = self._generate()
                await self._write(call, frame)
                if await self._read(call) is None:
                    await self._count(call)
                else:
                    self.num_survived += 1
                    call.cancel()

    async def _send_in_runs(self, num: int) -> None:
        frames = itertools.islice(self._frames, num)
        while (frame := next(frames, None)) is not None:
            call = await self._open()
            num_left = MAX_FRAMES_PER_STREAM
            while frame is not None and num_left and await self._survives(call, frame):
                num_left -= 1
                frame = next(frames, None) if num_left else None
            if num_left % 2:
                call.cancel()
            else:
                await self._end(call)

    async def _open(self) -> Any:
        """Open a run once no stray first message holds the worker."""
        async with asyncio.timeout(STEP_TIMEOUT_S):
            while True:
                call = self._generate()
                await self._write(call, OPEN.SerializeToString())
                if await self._read(call) is not None:
                    return call
                assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION

    async def _survives(self, call: Any, frame: bytes) -> bool:
        """Send a frame and a ping; True if the pong arrives, else count the stream's status."""
        nonce = next(self._nonces)
        async with asyncio.timeout(STEP_TIMEOUT_S):
            await self._write(call, frame)
            await self._write(call, pb.ToWorker(ping=pb.Ping(nonce=nonce)).SerializeToString())
            while (answer := await self._read(call)) is not None:
                if pb.FromWorker.FromString(answer).pong.nonce == nonce:
                    self.num_survived += 1
                    return True
            await self._count(call)
            return False

    async def status_of(self, frame: bytes) -> str:
        """Send one frame as a first message and return the status of its stream."""
        async with asyncio.timeout(STEP_TIMEOUT_S):
            call = self._generate()
            await self._write(call, frame)
            assert await self._read(call) is None
            name: str = (await call.code()).name
            return name

    async def _count(self, call: Any) -> None:
        status, words = await call.code(), await call.details()
        # gRPC's own words at this end, for a ping that came after the stream's end: the status is lost.
        if words == "Internal error from Core":
            self.statuses["unread"] += 1
            return
        self.statuses[status.name] += 1
        assert status.name in REFUSALS, (status, words)

    async def _end(self, call: Any) -> None:
        async with asyncio.timeout(STEP_TIMEOUT_S):
            with contextlib.suppress(asyncio.InvalidStateError):
                await call.done_writing()
            while await self._read(call) is not None:
                pass

    async def _write(self, call: Any, frame: bytes) -> None:
        # A stream that has ended takes nothing more; its status is read afterwards.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await call.write(frame)

    async def _read(self, call: Any) -> bytes | None:
        try:
            answer = await call.read()
        except grpc.aio.AioRpcError:
            return None
        return None if answer is grpc.aio.EOF else answer


async def check_good_run(channel: grpc.aio.Channel) -> None:
    """Open a run once no stray stream holds the worker, and compare its answers with the definition."""
    prompts = {name: [name % 20, 7, 100 * name] for name in range(40)}
    async with asyncio.timeout(STEP_TIMEOUT_S):
        while True:
            stream = Stream(channel)
            try:
                await stream.open("good", max_new_tokens=64)
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION, error
                await asyncio.sleep(0.01)
        await stream.submit(prompts, budget=16)
        await stream.take_until_ended(*prompts)
        expected = {name: fleet.counting_answer(prompt, 16) for name, prompt in prompts.items()}
        assert expected == stream.answers
        await stream.end()


def memory_mib(pid: int) -> float:
    """Read a process's resident memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


async def fuzz(worker: fleet.WorkerProcess, num_frames: int) -> Fuzzer:
    """Send frames in rounds of 1,000, a quarter as first messages; check the worker after each round."""
    async with grpc.aio.insecure_channel(worker.address, options=CHANNEL_OPTIONS) as channel:
        frames = mutations(20_261_124, VALID)
        fuzzer = Fuzzer(channel, frames)
        memories_mib = []
        for _ in range(num_frames // 1000):
            await fuzzer.round(750, 250)
            await check_good_run(channel)
            info = await rpc.WorkerStub(channel).GetInfo(pb.GetInfoRequest())
            assert info.state == pb.WORKER_STATE_READY
            memories_mib.append(memory_mib(worker.process.pid))
    # The first rounds fill allocators and caches; then a leak of 1 kB a frame would show.
    assert memories_mib[-1] < memories_mib[len(memories_mib) // 5] + 48, memories_mib
    return fuzzer


@pytest.mark.parametrize("num_frames", [2000, pytest.param(100_000, marks=pytest.mark.long)])
def test_no_message_breaks_a_worker(num_frames: int, tmp_path: Path) -> None:
    """A mutated message ends its stream with the right status; the worker answers the next run exactly."""
    with fleet.workers(tmp_path, 1, *FLAGS) as (worker,):
        fuzzer = asyncio.run(fuzz(worker, num_frames))
        assert fleet.health(worker.address) == "SERVING"
    log = worker.log.read_text()
    logger.info(
        "%d frames: %d taken, streams ended with %s", num_frames, fuzzer.num_survived, fuzzer.statuses
    )
    assert "Traceback" not in log, log[log.index("Traceback") - 1000 :][:4000]
    # Both kinds there were, so the mutations are neither all harmless nor all fatal at once.
    assert fuzzer.num_survived > num_frames // 20
    assert fuzzer.statuses["INVALID_ARGUMENT"] > num_frames // 20


def test_a_message_beyond_the_largest_ends_its_stream(tmp_path: Path) -> None:
    """64 MiB and more are RESOURCE_EXHAUSTED before they are read, and the worker serves the next run."""

    async def send_huge(worker: fleet.WorkerProcess) -> str:
        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(worker.address, options=options) as channel:
            fuzzer = Fuzzer(channel, iter(()))
            status = await fuzzer.status_of(bytes((64 << 20) + 1))
            await check_good_run(channel)
            return status

    with fleet.workers(tmp_path, 1, *FLAGS) as (worker,):
        assert asyncio.run(send_huge(worker)) == "RESOURCE_EXHAUSTED"
