"""One Generate call: from `open` to whatever ends it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import grpc
import numpy as np

from common.idle_timer import IdleTimer
from coordinator.transport.final_status import FinalStatus
from coordinator.transport.stream_counts import StreamCounts
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import (
    MAX_NS,
    MAX_SUBMIT_TOKENS,
    FrameError,
    PromptColumns,
    Requests,
    TokenColumns,
    pack_submit,
    unpack_tokens,
)

CALL_TIMEOUT_S = 5.0
BEAT_INTERVAL_S = 1.0
"""How often the fleet looks at each stream, and pings a worker of which nothing came since."""
MAX_BEATS_PER_PING = 5
"""A worker whose frames come is pinged at least so often."""
PINGS_PER_TIMEOUT = 3
"""And so many times before it would give its coordinator up."""
STATUS_TIMEOUT_S = 1.0
MAX_REASON_LEN = 300
Deliver = Callable[[TokenColumns], None]
Metadata = tuple[tuple[str, str], ...] | None
Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.ToWorker, pb.FromWorker]"


class WorkerLost(RuntimeError):
    """A stream will bring nothing more; `reason` is one line, `status` gRPC's where gRPC ended it."""

    def __init__(self, address: str, reason: str, status: grpc.StatusCode | None = None) -> None:
        # A worker's words may be anything.
        self.reason = "".join(c if c.isprintable() else "?" for c in reason[:MAX_REASON_LEN])
        super().__init__(f"worker {address}: {self.reason}")
        self.status = status


class Limits(NamedTuple):
    """When a worker counts as lost; see RunConfig."""

    silence_s: float
    stall_s: float


class Stream:
    """A run's messages to and from one worker; every method runs on the dispatcher's event loop."""

    def __init__(self, address: str, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        """Begin the call.

        Args:
            address: For messages to a person.
            channel: To the worker.
            metadata: What proves to the worker that this coordinator may use it.
        """
        self.outstanding = 0
        """Requests sent and not finished."""
        self.counts = StreamCounts()
        self._address = address
        self._worker_ns = 0
        self._call: Call | None = rpc.WorkerStub(channel).Generate(metadata=metadata, wait_for_ready=True)
        self._last_words = FinalStatus()
        self._call.add_done_callback(self._last_words.note)
        self._outgoing: asyncio.Queue[pb.ToWorker] = asyncio.Queue()
        self._heard = IdleTimer(BEAT_INTERVAL_S)
        self._stepped = IdleTimer(BEAT_INTERVAL_S)
        self._too_quiet: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why, once it is."""
        self._num_pings = 0
        self._beats_per_ping = 1
        self._beats_since_ping = 0
        self._pings: dict[int, int] = {}
        self._pong_came = asyncio.Event()

    async def open(self, opening: pb.Open) -> pb.Opened:
        """Begin the run.

        Raises:
            WorkerLost: The worker refuses, answers for another run or does not answer in time.
        """
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._open_call.write(pb.ToWorker(open=opening))
                first = await self._open_call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
            raise await self._lost(error) from error
        if not isinstance(first, pb.FromWorker):
            raise await self._lost(None)
        if first.WhichOneof("message") != "opened":
            raise WorkerLost(self._address, f"answers open with {first.WhichOneof('message')}")
        if first.opened.run_id != opening.run_id:
            raise WorkerLost(self._address, f"answers for run {first.opened.run_id!r}")
        self.counts.spec_hash = first.opened.spec_hash
        beats = first.opened.info.coordinator_timeout_s / PINGS_PER_TIMEOUT / BEAT_INTERVAL_S
        self._beats_per_ping = int(min(max(beats, 1), MAX_BEATS_PER_PING))
        return first.opened

    def send(self, prompts: PromptColumns) -> None:
        """Queue prompts, cut into messages of bounded size."""
        self.outstanding += len(prompts.requests)
        for part in _split(prompts):
            self._outgoing.put_nowait(pb.ToWorker(submit=pack_submit(part)))

    def stop(self, requests: Requests) -> None:
        """Tell the worker to stop requests; tokens on their way still arrive."""
        self.outstanding -= len(requests)
        self._outgoing.put_nowait(pb.ToWorker(cancel=pb.Cancel(requests=requests.tobytes())))

    async def carry(self, deliver: Deliver) -> None:
        """Carry messages both ways until cancelled; `beat` tells whether the worker keeps up.

        Args:
            deliver: Takes each frame of tokens; a FrameError from it ends the stream.

        Raises:
            WorkerLost: The stream broke, or the worker is silent, stalled or breaks the protocol.
        """
        self._ping()
        loops = [asyncio.ensure_future(self._read(deliver)), asyncio.ensure_future(self._write())]
        ends: list[asyncio.Future[Any]] = [*loops, self._too_quiet]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for loop in loops:
                if loop.done():
                    loop.result()
            raise WorkerLost(self._address, self._too_quiet.result())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await self._lost(error) from error
        except FrameError as error:
            raise WorkerLost(self._address, f"bad frame: {error}") from error
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    def beat(self, limits: Limits) -> None:
        """Ping if need be, and end `carry` when the worker has been quiet for too long.

        Frames that come are a better sign of life than an answer to a ping, which costs as much as a frame.

        One timer of the fleet calls this for every stream, each BEAT_INTERVAL_S: a wake-up costs more than
        what is done in it.

        Args:
            limits: Longest time without any message, and without tokens while requests are outstanding.
        """
        if not self.outstanding:
            self._stepped.hear()
        self._heard.tick()
        self._stepped.tick()
        reason = ""
        if self._heard.quiet_s > limits.silence_s:
            reason = f"silent for {limits.silence_s:g} s"
        elif self._stepped.quiet_s > limits.stall_s:
            reason = f"{self.outstanding} requests, no token for {limits.stall_s:g} s"
        if reason and not self._too_quiet.done():
            self._too_quiet.set_result(reason)
        self._beats_since_ping += 1
        if self._heard.quiet_s or self._beats_since_ping >= self._beats_per_ping:
            self._ping()

    async def settle(self, patience_s: float) -> None:
        """Ask for the worker's final counts, while `carry` runs; without an answer it stays unsettled.

        Args:
            patience_s: Longest wait for a first answer; tokens that it counts and that have not come get
                CALL_TIMEOUT_S.
        """
        counts = self.counts
        counts.asked = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._ask()
            counts.settled = True
            async with asyncio.timeout(CALL_TIMEOUT_S):
                while counts.produced_tokens != counts.num_tokens:
                    await self._ask()

    async def _ask(self) -> None:
        """Ping, and wait for the pong of that ping: an earlier one may count less."""
        nonce = self._ping()
        while nonce in self._pings:
            self._pong_came.clear()
            await self._pong_came.wait()

    def cancel(self) -> None:
        """End the call; the worker then empties its engine. What is left are the counts."""
        if self._call is not None:
            self._call.cancel()
        # It would keep its channel in memory for the rest of the run.
        self._call = None

    @property
    def _open_call(self) -> "Call":
        assert self._call is not None, "the stream has been cancelled"
        return self._call

    async def _read(self, deliver: Deliver) -> None:
        while (message := await self._open_call.read()) is not grpc.aio.EOF:
            if not isinstance(message, pb.FromWorker):
                # What gRPC makes of bytes that do not parse.
                raise FrameError("not a message of this protocol")
            self._heard.hear()
            kind = message.WhichOneof("message")
            if kind == "tokens":
                columns = unpack_tokens(message.tokens, sequence=self.counts.num_frames)
                if len(columns.tokens) or len(columns.finished_rows):
                    self._stepped.hear()
                deliver(columns)
                self.counts.num_frames += 1
                self.counts.num_tokens += len(columns.tokens)
            elif kind == "pong":
                self._take_pong(message.pong)
            else:
                raise FrameError(f"unexpected message: {kind}")
        raise await self._lost(None)

    async def _write(self) -> None:
        while True:
            await self._open_call.write(await self._outgoing.get())

    def _ping(self) -> int:
        nonce = self._num_pings
        self._num_pings += 1
        self._beats_since_ping = 0
        self._pings[nonce] = time.monotonic_ns()
        self._outgoing.put_nowait(pb.ToWorker(ping=pb.Ping(nonce=nonce)))
        return nonce

    def _take_pong(self, pong: pb.Pong) -> None:
        sent_ns = self._pings.pop(pong.nonce, None)
        if sent_ns is None:
            raise FrameError(f"pong {pong.nonce} without a ping")
        if pong.worker_ns < self._worker_ns:
            raise FrameError(f"clock went back from {self._worker_ns} to {pong.worker_ns} ns")
        if pong.worker_ns > MAX_NS:
            raise FrameError(f"pong: {pong.worker_ns} is no time of a monotonic clock")
        counts, now_ns = self.counts, time.monotonic_ns()
        round_trip_ns = now_ns - sent_ns
        if not counts.round_trip_ns or round_trip_ns < counts.round_trip_ns:
            counts.round_trip_ns = round_trip_ns
            offset_ns = pong.worker_ns - (sent_ns + now_ns) // 2
            counts.clock_offset_ns = offset_ns if abs(offset_ns) > round_trip_ns // 2 else 0
        self._worker_ns = pong.worker_ns
        counts.engine_steps, counts.produced_tokens = pong.steps, pong.produced_tokens
        self._pong_came.set()

    async def _lost(self, error: BaseException | None) -> WorkerLost:
        """Say why the call ended, in the worker's own words where it had any."""
        if isinstance(error, TimeoutError):
            return WorkerLost(self._address, f"no answer within {CALL_TIMEOUT_S:g} s")
        end = await self._last_words.wait(self._open_call, STATUS_TIMEOUT_S)
        if end is None:
            return WorkerLost(self._address, "stream ended" if error is None else f"stream broke: {error}")
        code, details = end
        words = "stream ended" if code is grpc.StatusCode.OK else f"{code.name}: {details}"
        return WorkerLost(self._address, words, code)


def _split(prompts: PromptColumns) -> Iterator[PromptColumns]:
    """Cut prompts between requests, at MAX_SUBMIT_TOKENS; a longer one goes alone."""
    if len(prompts.prompt_tokens) <= MAX_SUBMIT_TOKENS:
        yield prompts
        return
    ends = prompts.prompt_lens.cumsum(dtype=np.int64)
    begin = 0
    while begin < len(ends):
        start = int(ends[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(ends, start + MAX_SUBMIT_TOKENS, side="right")), begin + 1)
        yield PromptColumns(
            prompts.requests[begin:end],
            prompts.prompt_lens[begin:end],
            prompts.prompt_tokens[start : int(ends[end - 1])],
            prompts.max_new_tokens[begin:end],
            prompts.produced[begin:end],
        )
        begin = end
