"""The coordinator's end of one worker's stream."""

import asyncio
import logging
import time
from array import array
from collections.abc import Callable

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.access import Access
from coordinator.routing import WorkerLoad
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.frames import (
    CHANNEL_OPTIONS,
    MAX_SUBMIT_TOKENS,
    SERVICE,
    FrameError,
    PromptColumns,
    TokenColumns,
    pack_submit,
    unpack_tokens,
)

logger = logging.getLogger(__name__)

CALL_TIMEOUT_S = 5.0
PING_INTERVAL_S = 1.0
Deliver = Callable[["Link", TokenColumns], None]


class WorkerLost(RuntimeError):
    """A worker will bring nothing more in this run; the message names its address and why."""


class Link:
    """One worker; every method runs on the dispatcher's event loop."""

    def __init__(self, index: int, address: str, access: Access) -> None:
        """Create a link that is not connected yet.

        Args:
            index: Position in the fleet.
            address: host:port.
            access: How to reach it.
        """
        self._access = access
        self.index = index
        self.address = address
        self.info = pb.WorkerInfo()
        self.waiting_prefill_tokens = 0
        self.outstanding = 0
        self.last_prompt_ns = 0
        self.num_frames = 0
        self.num_tokens = 0
        self.last_pong = pb.Pong()
        self.round_trip_ns = 0
        """Of the shortest ping."""
        self._clock_offset_ns = 0
        self.report_delays_ns = array("q")
        """Per frame with a first token or an end: LoadGen told (our clock) minus produced (the worker's)."""
        self._channel = access.channel(address, CHANNEL_OPTIONS)
        self._call: grpc.aio.StreamStreamCall[pb.ToWorker, pb.FromWorker] | None = None
        self._outgoing: asyncio.Queue[pb.ToWorker] = asyncio.Queue()
        self._last_heard_s = self._last_tokens_s = time.monotonic()
        self._pings: dict[int, int] = {}
        self._pong_came = asyncio.Event()

    @property
    def clock_offset_ns(self) -> int:
        """Worker's monotonic clock minus ours; 0 where the shortest ping cannot tell it from 0."""
        return self._clock_offset_ns if abs(self._clock_offset_ns) > self.round_trip_ns // 2 else 0

    @property
    def load(self) -> WorkerLoad:
        """What dispatch needs to know."""
        return WorkerLoad(self.waiting_prefill_tokens, self.outstanding, self.last_prompt_ns)

    async def probe(self) -> str:
        """Ask once whether the worker is ready, and fetch its info when it is.

        Returns:
            "SERVING", or what it is instead.
        """
        health = health_pb2_grpc.HealthStub(self._channel)
        try:
            answer = await health.Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=CALL_TIMEOUT_S
            )
            status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            if status == "SERVING":
                self.info = await rpc.WorkerStub(self._channel).GetInfo(
                    pb.GetInfoRequest(), timeout=CALL_TIMEOUT_S
                )
        except grpc.aio.AioRpcError as error:
            return f"unreachable ({error.code().name}: {(error.details() or '').rpartition(': ')[2]})"
        return status

    async def open(self, opening: pb.Open) -> pb.Opened:
        """Begin the run on this worker.

        Raises:
            WorkerLost: The worker refuses or does not answer in time.
        """
        self._call = rpc.WorkerStub(self._channel).Generate(
            wait_for_ready=True, metadata=self._access.metadata
        )
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._call.write(pb.ToWorker(open=opening))
                first = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
            raise WorkerLost(f"worker {self.address}: {await self._why(error)}") from error
        if not isinstance(first, pb.FromWorker) or first.WhichOneof("message") != "opened":
            raise WorkerLost(f"worker {self.address}: {await self._why(None)}")
        return first.opened

    def send(self, prompts: PromptColumns) -> None:
        """Queue prompts, cut into messages of bounded size."""
        ends = prompts.prompt_lens.cumsum(dtype=np.int64)
        begin = 0
        while begin < len(ends):
            start = int(ends[begin - 1]) if begin else 0
            end = max(int(np.searchsorted(ends, start + MAX_SUBMIT_TOKENS, side="right")), begin + 1)
            part = PromptColumns(
                prompts.requests[begin:end],
                prompts.prompt_lens[begin:end],
                prompts.prompt_tokens[start : int(ends[end - 1])],
                prompts.max_new_tokens[begin:end],
                prompts.produced[begin:end],
            )
            self._outgoing.put_nowait(pb.ToWorker(submit=pack_submit(part)))
            begin = end

    async def run(self, deliver: Deliver, silence_s: float, stall_s: float) -> None:
        """Carry messages both ways until cancelled.

        Args:
            deliver: Takes each frame of tokens.
            silence_s: Longest time without any message.
            stall_s: Longest time without tokens while requests are outstanding.

        Raises:
            WorkerLost: The stream broke, or the worker is silent, stalled or breaks the protocol.
        """
        self._last_heard_s = self._last_tokens_s = time.monotonic()
        loops = [
            asyncio.ensure_future(c)
            for c in (self._read(deliver), self._write(), self._watch(silence_s, stall_s))
        ]
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for loop in done:
                loop.result()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise WorkerLost(f"worker {self.address}: {await self._why(error)}") from error
        except FrameError as error:
            raise WorkerLost(f"worker {self.address}: bad frame: {error}") from error
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def ask(self) -> pb.Pong:
        """Send a ping and wait for the next pong, while `run` runs."""
        self._pong_came.clear()
        self._ping()
        async with asyncio.timeout(CALL_TIMEOUT_S):
            await self._pong_came.wait()
        return self.last_pong

    async def close(self) -> None:
        """End the stream and the channel; the worker then empties its engine."""
        if self._call is not None:
            self._call.cancel()
        await self._channel.close(grace=None)

    @property
    def _stream(self) -> "grpc.aio.StreamStreamCall[pb.ToWorker, pb.FromWorker]":
        assert self._call is not None, "open comes first"
        return self._call

    async def _read(self, deliver: Deliver) -> None:
        while isinstance(message := await self._stream.read(), pb.FromWorker):
            self._last_heard_s = time.monotonic()
            kind = message.WhichOneof("message")
            if kind == "tokens":
                self._last_tokens_s = self._last_heard_s
                columns = unpack_tokens(message.tokens, sequence=self.num_frames)
                self.num_frames += 1
                self.num_tokens += len(columns.tokens)
                deliver(self, columns)
            elif kind == "pong":
                self._take_pong(message.pong)
            elif kind == "failed":
                raise WorkerLost(f"worker {self.address}: gave up requests: {message.failed.reason}")
            else:
                raise FrameError(f"unexpected message: {kind}")
        raise WorkerLost(f"worker {self.address}: {await self._why(None)}")

    async def _write(self) -> None:
        while True:
            await self._stream.write(await self._outgoing.get())

    async def _watch(self, silence_s: float, stall_s: float) -> None:
        while True:
            self._ping()
            await asyncio.sleep(PING_INTERVAL_S)
            now_s = time.monotonic()
            if now_s - self._last_heard_s > silence_s:
                raise WorkerLost(f"worker {self.address}: silent for {silence_s:g} s")
            if not self.outstanding:
                self._last_tokens_s = now_s
            elif now_s - self._last_tokens_s > stall_s:
                raise WorkerLost(
                    f"worker {self.address}: {self.outstanding} requests, no token for {stall_s:g} s"
                )

    def _ping(self) -> None:
        nonce = len(self._pings)
        self._pings[nonce] = time.monotonic_ns()
        self._outgoing.put_nowait(pb.ToWorker(ping=pb.Ping(nonce=nonce)))

    def _take_pong(self, pong: pb.Pong) -> None:
        sent_ns = self._pings.get(pong.nonce)
        if sent_ns is None:
            raise FrameError(f"pong {pong.nonce} without a ping")
        now_ns = time.monotonic_ns()
        if not self.round_trip_ns or now_ns - sent_ns < self.round_trip_ns:
            self.round_trip_ns = now_ns - sent_ns
            self._clock_offset_ns = pong.worker_ns - (sent_ns + now_ns) // 2
        self.last_pong = pong
        self._pong_came.set()

    async def _why(self, error: BaseException | None) -> str:
        """Say why the stream ended, in the worker's own words where it had any."""
        if isinstance(error, TimeoutError):
            return f"no answer within {CALL_TIMEOUT_S:g} s"
        if isinstance(error, grpc.aio.AioRpcError):
            return f"{error.code().name}: {error.details()}"
        if self._stream.done():
            return f"{(await self._stream.code()).name}: {await self._stream.details()}"
        return "stream ended"
