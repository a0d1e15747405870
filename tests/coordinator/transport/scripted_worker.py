"""A worker that plays a script over a real socket, and the coordinator's stream to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

import grpc
import numpy as np
import pytest

import coordinator.transport.stream
from coordinator.transport.stream import Limits, Stream, WorkerLost
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS, PromptColumns, TokenColumns, pack_tokens

Deliver = Callable[[TokenColumns], None]
PATIENT = Limits(silence_s=30, stall_s=30)
BOUND_S = 60.0


class Scene:
    """The worker's end of one Generate call."""

    def __init__(self, call: grpc.aio.ServicerContext[pb.ToWorker, pb.FromWorker]) -> None:
        """Take over the call."""
        self.call = call
        self.heard: list[pb.ToWorker] = []
        """All that the coordinator said."""
        self.num_frames = 0

    async def hear(self, kind: str) -> Any:
        """Read until a message of this kind, and return what it holds; the call's end ends the script."""
        while True:
            message = await self.call.read()
            if not isinstance(message, pb.ToWorker):
                raise asyncio.CancelledError
            self.heard.append(message)
            if message.WhichOneof("message") == kind:
                return getattr(message, kind)

    async def say(self, **message: Any) -> None:
        """Send one message by its field name."""
        await self.call.write(pb.FromWorker(**message))

    async def open(self) -> None:
        """Answer `open` as a worker should."""
        opening = await self.hear("open")
        await self.say(opened=pb.Opened(spec_hash="abc", run_id=opening.run_id))

    async def bring(self, *tokens: int, name: int = 1) -> None:
        """Send a good frame: some tokens of one request."""
        await self.say(tokens=good_frame(tokens, self.num_frames, name))
        self.num_frames += 1

    async def pong(self, **pong: int) -> None:
        """Answer pings for ever, each pong with the same values; the clock goes on."""
        clock = 1
        while True:
            ping = await self.hear("ping")
            clock += 1
            await self.say(pong=pb.Pong(**({"nonce": ping.nonce, "worker_ns": clock} | pong)))


Script = Callable[[Scene], Coroutine[Any, Any, None]]


def good_frame(tokens: Sequence[int], sequence: int, name: int = 1) -> pb.Tokens:
    """Pack tokens of one request."""
    columns = TokenColumns(
        requests=np.array([name], np.uint64),
        counts=np.array([len(tokens)], np.uint32),
        tokens=np.array(tokens, np.int32),
        finished_rows=np.zeros(0, np.uint32),
        finish_reasons=np.zeros(0, np.uint8),
        produced_ns=1,
    )
    return pack_tokens(columns, sequence=sequence)


def prompts(*lens: int) -> PromptColumns:
    """Make prompts: request i + 1 has lens[i] tokens, numbered over all prompts from 0."""
    num = len(lens)
    return PromptColumns(
        np.arange(1, num + 1, dtype=np.uint64),
        np.array(lens, np.uint32),
        np.arange(sum(lens), dtype=np.int32),
        np.full(num, 10, np.uint32),
        np.zeros(num, np.uint32),
    )


class Actor(rpc.WorkerServicer):
    """Plays one script on every call."""

    def __init__(self, script: Script) -> None:
        """Start idle."""
        self._script = script

    async def Generate(  # noqa: N802 - gRPC's name
        self, request_iterator: object, context: grpc.aio.ServicerContext[pb.ToWorker, pb.FromWorker]
    ) -> None:
        """Play the script; its end ends the stream with OK."""
        await self._script(Scene(context))


@contextlib.asynccontextmanager
async def stream_to(script: Script) -> AsyncIterator[Stream]:
    """Serve a script on a free port, and begin a call to it."""
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    rpc.add_WorkerServicer_to_server(Actor(script), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            stream = Stream("the-worker:1", channel, metadata=None)
            try:
                yield stream
            finally:
                stream.cancel()
    finally:
        await server.stop(grace=None)


def act(script: Script, steps: Callable[[Stream], Coroutine[Any, Any, None]]) -> None:
    """Take steps on a stream to a script, within BOUND_S."""

    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S), stream_to(script) as stream:
            await steps(stream)

    asyncio.run(bounded())


async def open_stream(stream: Stream) -> pb.Opened:
    """Open run "this"."""
    return await stream.open(pb.Open(protocol_version=4, run_id="this"))


def refusal_of(script: Script) -> WorkerLost:
    """Open a stream to a script that must not let it; returns the loss."""
    losses = []

    async def steps(stream: Stream) -> None:
        with pytest.raises(WorkerLost) as caught:
            await open_stream(stream)
        losses.append(caught.value)

    act(script, steps)
    return losses[0]


def drop(_: TokenColumns) -> None:
    """Take a frame and do nothing with it."""


def no_requests() -> int:
    """Count the requests of a worker that has none."""
    return 0


async def carry(
    stream: Stream, deliver: Deliver, limits: Limits, count_outstanding: Callable[[], int] = no_requests
) -> None:
    """Carry and beat, as a fleet does, until the stream ends."""

    async def beat() -> None:
        while True:
            await asyncio.sleep(coordinator.transport.stream.BEAT_INTERVAL_S)
            stream.beat(limits, count_outstanding())

    beating = asyncio.ensure_future(beat())
    try:
        await stream.carry(deliver)
    finally:
        beating.cancel()


def loss_of(script: Script, limits: Limits = PATIENT, sent: PromptColumns | None = None) -> WorkerLost:
    """Open a stream, send prompts, and carry until the script ends it; returns the loss."""
    losses = []

    async def steps(stream: Stream) -> None:
        await open_stream(stream)
        if sent is not None:
            stream.send(sent)
        with pytest.raises(WorkerLost) as caught:
            num_sent = 0 if sent is None else len(sent.requests)
            await carry(stream, drop, limits, lambda: num_sent)
        losses.append(caught.value)

    act(script, steps)
    return losses[0]


@contextlib.asynccontextmanager
async def carrying(stream: Stream, deliver: Deliver = drop) -> AsyncIterator[None]:
    """Open a stream and carry for the length of a block."""
    await open_stream(stream)
    carried = asyncio.ensure_future(carry(stream, deliver, PATIENT))
    try:
        yield
    finally:
        carried.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await carried
