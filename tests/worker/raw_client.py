"""A minimal coordinator (one stream), and a worker in this process to connect it to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import pytest

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS, PROTOCOL_VERSION, PromptColumns, pack_submit, unpack_tokens
from worker.engines.scripted.counting import CountingConfig, CountingEngine
from worker.servicer import WorkerServicer

SPEC = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_new_tokens": 10_000}
MAX_MODEL_LEN = 20_000
STOP_TOKEN_ID = 200_002


class Stream:
    """One Generate call, and the tokens received on it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Start the call."""
        self.stub: Any = rpc.WorkerStub(channel)
        self.call: Any = self.stub.Generate()
        self.answers: dict[int, list[int]] = {}
        self.reasons: dict[int, int] = {}
        self.num_frames = 0
        self.loads: dict[int, pb.EngineLoad] = {}
        """Loads that came with frames, by the number of the frame."""

    async def send(self, **message: Any) -> None:
        """Send one message by its field name."""
        await self.call.write(pb.ToWorker(**message))

    async def open(self, run_id: str = "run", version: int = PROTOCOL_VERSION, **changed: Any) -> pb.Opened:
        """Open a run, some values of SPEC changed, and return the answer, which must be `opened`."""
        spec = pb.RunSpec(**(SPEC | changed))
        await self.send(open=pb.Open(protocol_version=version, run_id=run_id, spec=spec))
        message: pb.FromWorker = await self.call.read()
        assert message.WhichOneof("message") == "opened"
        return message.opened

    async def submit(
        self, prompts: Mapping[int, Sequence[int]], budget: int = 1000, produced: int = 0
    ) -> None:
        """Submit prompts by name in one message."""
        num = len(prompts)
        columns = PromptColumns(
            np.array(list(prompts), np.uint64),
            np.array([len(prompt) for prompt in prompts.values()], np.uint32),
            np.array([token for prompt in prompts.values() for token in prompt], np.int32),
            np.full(num, budget, np.uint32),
            np.full(num, produced, np.uint32),
        )
        await self.send(submit=pack_submit(columns))

    async def take(self) -> set[int]:
        """Read the next frame, past pongs, into `answers` and `reasons`; returns names with new tokens."""
        message: pb.FromWorker = await self.call.read()
        while message.WhichOneof("message") == "pong":
            message = await self.call.read()
        assert message.WhichOneof("message") == "tokens"
        return self.add(message.tokens)

    def add(self, frame: pb.Tokens) -> set[int]:
        """Add the next frame to `answers` and `reasons`; returns names with new tokens."""
        columns = unpack_tokens(frame, sequence=self.num_frames)
        if frame.HasField("load"):
            self.loads[self.num_frames] = frame.load
        self.num_frames += 1
        names = columns.requests.tolist()
        counts = [1] * len(names) if columns.counts is None else columns.counts.tolist()
        tokens = iter(columns.tokens.tolist())
        for name, count in zip(names, counts, strict=True):
            assert name not in self.reasons
            self.answers.setdefault(name, []).extend(next(tokens) for _ in range(count))
        for row, reason in zip(columns.finished_rows.tolist(), columns.finish_reasons.tolist(), strict=True):
            self.reasons[names[row]] = reason
        return {name for name, count in zip(names, counts, strict=True) if count}

    async def take_until_ended(self, *names: int) -> None:
        """Read frames until these requests have ended."""
        while not set(names) <= set(self.reasons):
            await self.take()

    async def ping(self, nonce: int) -> pb.Pong:
        """Send a ping and read its pong, with the frames that come before it."""
        await self.send(ping=pb.Ping(nonce=nonce))
        while True:
            message: pb.FromWorker = await self.call.read()
            if message.WhichOneof("message") == "tokens":
                self.add(message.tokens)
            elif message.pong.nonce == nonce:
                return message.pong

    async def end(self) -> None:
        """Close the sending side, and read to the worker's OK."""
        await self.call.done_writing()
        while await self.call.read() is not grpc.aio.EOF:
            pass
        assert await self.call.code() is grpc.StatusCode.OK

    async def refusal(self) -> tuple[str, str]:
        """Read until the worker ends the stream with an error; returns its status and message."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while await self.call.read() is not grpc.aio.EOF:
                pass
        return caught.value.code().name, caught.value.details() or ""


@contextlib.asynccontextmanager
async def connected(address: str) -> AsyncIterator[grpc.aio.Channel]:
    """Hold a channel for the length of a block."""
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        yield channel


async def refusal_of(channel: grpc.aio.Channel, **changed: Any) -> tuple[str, str]:
    """Open a run that must be refused; returns status and message."""
    stream = Stream(channel)
    spec = pb.RunSpec(**(SPEC | {k: v for k, v in changed.items() if k in SPEC}))
    version, run_id = changed.get("version", PROTOCOL_VERSION), changed.get("run_id", "refused")
    opening = pb.Open(protocol_version=version, run_id=run_id, spec=spec)
    await stream.send(open=opening)
    return await stream.refusal()


class Worker:
    """A servicer behind a port, and a client's channel to it."""

    def __init__(
        self, servicer: WorkerServicer, engine: CountingEngine, address: str, channel: grpc.aio.Channel
    ) -> None:
        """Join them."""
        self.servicer, self.engine, self.address, self.channel = servicer, engine, address, channel
        self.stub: Any = rpc.WorkerStub(channel)

    def stream(self) -> Stream:
        """Start a Generate call."""
        return Stream(self.channel)


@contextlib.asynccontextmanager
async def serving(
    engine: CountingEngine | None = None, ready: bool = True, coordinator_timeout_s: float = 60
) -> AsyncIterator[Worker]:
    """Serve an engine on a free port; frames are not held back."""
    engine = engine or CountingEngine(
        CountingConfig(step_ms=0.2, max_num_seqs=8, max_model_len=MAX_MODEL_LEN)
    )
    servicer = WorkerServicer(engine, 0, coordinator_timeout_s)
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    rpc.add_WorkerServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        if ready:
            servicer.admit_runs(await engine.start())
        async with connected(address) as channel:
            yield Worker(servicer, engine, address, channel)
    finally:
        await server.stop(grace=None)
        await servicer.close()


def walk(
    steps: Callable[[Worker], Coroutine[Any, Any, None]],
    engine: CountingEngine | None = None,
    ready: bool = True,
    coordinator_timeout_s: float = 60,
) -> None:
    """Run test steps against a new worker, within 60 s."""

    async def bounded() -> None:
        async with asyncio.timeout(60), serving(engine, ready, coordinator_timeout_s) as worker:
            await steps(worker)

    asyncio.run(bounded())


async def open_when_free(worker: Worker, run_id: str) -> Stream:
    """Open a run as soon as the worker is free again, within 60 s."""
    async with asyncio.timeout(60):
        while True:
            load = await worker.stub.GetLoad(pb.GetLoadRequest())
            if not load.run_id:
                break
            await asyncio.sleep(0.01)
    stream = worker.stream()
    await stream.open(run_id)
    return stream


async def assert_empty(stream: Stream) -> None:
    """Check that a run that has just begun finds an engine without requests or counts of an earlier run."""
    load = await stream.stub.GetLoad(pb.GetLoadRequest())
    assert (load.running, load.waiting) == (0, 0)
    pong = await stream.ping(1)
    assert (pong.produced_tokens, pong.steps) == (0, 0)
    await stream.submit({5: [2, 70]})
    await stream.take_until_ended(5)
    assert stream.answers == {5: [71, STOP_TOKEN_ID]}
