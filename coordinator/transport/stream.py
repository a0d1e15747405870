"""One Generate call: open it, exchange messages, detect silent and stalled workers."""

import asyncio
import contextlib
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import grpc

from common.idle_timer import IdleTimer
from common.text import printable
from coordinator.transport.compiled_kernels import KernelCompilations
from coordinator.transport.engine_reading import NO_READING, EngineReading
from coordinator.transport.final_status import FinalStatus
from coordinator.transport.worker_answers import AnswerError, check_info, check_serving, clean
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import (
    MAX_NS,
    MAX_SUBMIT_TOKENS,
    FrameError,
    PromptColumns,
    RequestNames,
    TokenColumns,
    pack_submit,
    unpack_tokens,
)
from protos.prompt_parts import merge_prompts, split_prompts

CALL_TIMEOUT_S = 5.0
BEAT_INTERVAL_S = 1.0
"""Interval at which the fleet checks each stream and pings a worker that has sent nothing since."""
MAX_BEATS_PER_PING = 5
"""A worker that sends frames is pinged at least once per this many beats."""
PINGS_PER_TIMEOUT = 3
"""Number of pings within the worker's coordinator timeout."""
STATUS_TIMEOUT_S = 1.0
MAX_REASON_LEN = 300
_REFUSALS = (
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
)
"""Statuses of a worker, or of what listens in its place; gRPC gives none of them to a broken connection."""
Deliver = Callable[[TokenColumns], None]
Metadata = tuple[tuple[str, str], ...] | None
Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.ToWorker, pb.FromWorker]"


class WorkerLost(RuntimeError):
    """The stream to a worker has ended; `reason` is one printable line."""

    def __init__(self, address: str, reason: str) -> None:
        # The reason may contain any text that the worker sent.
        self.reason = printable(reason, MAX_REASON_LEN)
        super().__init__(f"worker {address}: {self.reason}")


class WorkerRefused(WorkerLost):
    """The worker does not take this run, or is no worker of this protocol: another try would end the same."""


class Limits(NamedTuple):
    """Timeouts after which a worker counts as lost; see RunConfig."""

    silence_s: float
    stall_s: float


@dataclass(slots=True)
class StreamCounts:
    """Counts of a stream, kept until the end of the run; a whole stream would take about 7 KiB."""

    num_frames: int = 0
    """Token frames received."""
    num_tokens: int = 0
    """Tokens received in them."""
    engine_steps: int = 0
    """Engine steps for this stream, as of the last pong."""
    produced_tokens: int = 0
    """Tokens that the engine produced for this stream, as of the last pong."""
    decode_rows: int = 0
    """Rows of engine steps without their request's first token, as of the last pong."""
    decode_tokens: int = 0
    """Tokens of these rows: with speculative decoding several a row."""
    asked: bool = False
    """Whether the final counts have been requested."""
    settled: bool = False
    """Whether the last pong contains the final counts."""
    spec_hash: str = ""
    info: pb.WorkerInfo = field(default_factory=pb.WorkerInfo)
    """The worker as it described itself when it opened the stream."""
    compiled: KernelCompilations | None = None
    """Kernels that the engine compiled for this stream, as last reported; None if it does not tell."""
    round_trip_ns: int = 0
    """Shortest round trip of a ping."""
    clock_offset_ns: int = 0
    """Worker's monotonic clock minus ours; 0 if it is within the error of the shortest ping."""
    pings: "array[int]" = field(default_factory=lambda: array("q"))
    """Three numbers per ping with a pong: sent (our clock), answered (worker's), and received (ours)."""


class Stream:
    """A run's stream to one worker; every method runs on the event loop's thread."""

    def __init__(self, address: str, channel: grpc.aio.Channel, metadata: Metadata) -> None:
        """Start the call.

        Args:
            address: For messages to the user.
            channel: Channel to the worker.
            metadata: The run token, if any.
        """
        self.counts = StreamCounts()
        self.reading = NO_READING
        """The load of the worker's engine, as last reported with a pong or a frame."""
        self._address = address
        self._worker_ns = 0
        self._call: Call | None = rpc.WorkerStub(channel).Generate(metadata=metadata, wait_for_ready=True)
        self._final_status = FinalStatus()
        self._call.add_done_callback(self._final_status.note)
        self._loop = asyncio.get_running_loop()
        self._outgoing: deque[PromptColumns | pb.ToWorker] = deque()
        self._writer_waits: asyncio.Future[None] | None = None
        """Pending while the outgoing queue is empty."""
        self._num_received = self._num_received_at_beat = 0
        """Messages received, of any kind."""
        self._num_steps = self._num_steps_at_beat = 0
        """Frames received with tokens or completions."""
        self._silence, self._stall = IdleTimer(BEAT_INTERVAL_S), IdleTimer(BEAT_INTERVAL_S)
        self._idle_reason: asyncio.Future[str] = self._loop.create_future()
        """Set to the reason when the worker has been silent or stalled for too long."""
        self._num_pings = 0
        self._beats_per_ping = 1
        self._beats_since_ping = 0
        self._pings: dict[int, int] = {}
        """Send times of pings without a pong, by nonce."""
        self._pong_came = asyncio.Event()

    async def open(self, opening: pb.Open) -> pb.Opened:
        """Begin the run.

        Raises:
            WorkerRefused: The worker refuses, or answers what no worker of this protocol answers.
            WorkerLost: The stream breaks, or the worker does not answer in time.
        """
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await self._open_call.write(pb.ToWorker(open=opening))
                first = await self._open_call.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
            raise await self._lost(error) from error
        if first is grpc.aio.EOF:
            raise await self._lost(None)
        if not isinstance(first, pb.FromWorker):
            # gRPC returns another object if the bytes do not parse.
            raise WorkerRefused(self._address, "answers open with no message of this protocol")
        if first.WhichOneof("message") != "opened":
            raise WorkerRefused(self._address, f"answers open with {first.WhichOneof('message')}")
        try:
            clean(first.opened)
            check_info(first.opened.info)
            check_serving(first.opened.info)
        except AnswerError as error:
            raise WorkerRefused(self._address, f"answers open with {error}") from error
        if first.opened.run_id != opening.run_id:
            raise WorkerRefused(self._address, f"answers for run {first.opened.run_id!r}")
        self.counts.spec_hash, self.counts.info = first.opened.spec_hash, first.opened.info
        beats = first.opened.info.coordinator_timeout_s / PINGS_PER_TIMEOUT / BEAT_INTERVAL_S
        self._beats_per_ping = int(min(max(beats, 1), MAX_BEATS_PER_PING))
        return first.opened

    def send(self, prompts: PromptColumns) -> None:
        """Queue prompts; prompts queued before the writer runs are merged into messages of bounded size."""
        self._enqueue(prompts)

    def cancel_requests(self, names: RequestNames) -> None:
        """Cancel requests on the worker; tokens in flight still arrive."""
        self._enqueue(pb.ToWorker(cancel=pb.Cancel(requests=names.tobytes())))

    async def carry(self, deliver: Deliver) -> None:
        """Read and write messages until cancelled; `beat` ends it if the worker is silent or stalled.

        Args:
            deliver: Called with each token frame; a FrameError from it ends the stream.

        Raises:
            WorkerLost: The stream ended, or the worker is silent, stalled or violates the protocol.
        """
        self._ping()
        loops = [asyncio.ensure_future(self._read(deliver)), asyncio.ensure_future(self._write())]
        ends: list[asyncio.Future[Any]] = [*loops, self._idle_reason]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for loop in loops:
                if loop.done():
                    loop.result()
            raise WorkerLost(self._address, self._idle_reason.result())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise await self._lost(error) from error
        except FrameError as error:
            raise WorkerLost(self._address, f"bad frame: {error}") from error
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    def beat(self, limits: Limits, outstanding: int) -> None:
        """Ping if necessary, and end `carry` if the worker has been silent or stalled for too long.

        Received frames show that the worker is alive and bring the load of its engine; a ping, which compares
        the clocks, costs as much as a frame. One timer of the fleet calls this method for all streams,
        because a wake-up costs more than the check.

        Args:
            limits: Longest time without any message, and without tokens while requests are outstanding.
            outstanding: Number of requests on the worker.
        """
        if self._num_received != self._num_received_at_beat:
            self._silence.mark_active()
        if self._num_steps != self._num_steps_at_beat or not outstanding:
            self._stall.mark_active()
        self._num_received_at_beat, self._num_steps_at_beat = self._num_received, self._num_steps
        self._silence.tick()
        self._stall.tick()
        reason = ""
        if self._silence.idle_s > limits.silence_s:
            reason = f"silent for {limits.silence_s:g} s"
        elif self._stall.idle_s > limits.stall_s:
            reason = f"{outstanding} requests, no token for {limits.stall_s:g} s"
        if reason and not self._idle_reason.done():
            self._idle_reason.set_result(reason)
        self._beats_since_ping += 1
        if self._silence.idle_s or self._beats_since_ping >= self._beats_per_ping:
            self._ping()

    async def settle(self, patience_s: float) -> None:
        """Request the worker's final counts, while `carry` runs; sets `counts.settled` on an answer.

        Args:
            patience_s: Longest wait for the answer. Tokens that it counts may then take CALL_TIMEOUT_S to
                arrive.
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
        """Ping and wait for the pong to this ping; an earlier pong may have lower counts."""
        nonce = self._ping()
        while nonce in self._pings:
            self._pong_came.clear()
            await self._pong_came.wait()

    def cancel(self) -> None:
        """Cancel the call, after which the worker empties its engine; only the counts are kept."""
        if self._call is not None:
            self._call.cancel()
        # The call would keep its channel in memory for the rest of the run.
        self._call = None

    @property
    def _open_call(self) -> "Call":
        assert self._call is not None, "the stream has been cancelled"
        return self._call

    async def _read(self, deliver: Deliver) -> None:
        read, counts = self._open_call.read, self.counts
        while (message := await read()) is not grpc.aio.EOF:
            if not isinstance(message, pb.FromWorker):
                # gRPC returns another object if the bytes do not parse.
                raise FrameError("not a message of this protocol")
            self._num_received += 1
            kind = message.WhichOneof("message")
            if kind == "tokens":
                frame = message.tokens
                columns = unpack_tokens(frame, counts.num_frames)
                if frame.HasField("load"):
                    self._take_load(frame.load)
                num_tokens = len(columns.tokens)
                if num_tokens or len(columns.finished_rows):
                    self._num_steps += 1
                deliver(columns)
                counts.num_frames += 1
                counts.num_tokens += num_tokens
            elif kind == "pong":
                self._take_pong(message.pong)
            else:
                raise FrameError(f"unexpected message: {kind}")
        raise await self._lost(None)

    def _enqueue(self, item: PromptColumns | pb.ToWorker) -> None:
        self._outgoing.append(item)
        if self._writer_waits is not None and not self._writer_waits.done():
            self._writer_waits.set_result(None)

    async def _write(self) -> None:
        write = self._open_call.write
        while True:
            while self._outgoing:
                item = self._outgoing.popleft()
                if isinstance(item, pb.ToWorker):
                    await write(item)
                    continue
                prompts = self._with_following(item) if self._outgoing else item
                if len(prompts.prompt_tokens) <= MAX_SUBMIT_TOKENS:
                    await write(pb.ToWorker(submit=pack_submit(prompts)))
                    continue
                for part in split_prompts(prompts):
                    await write(pb.ToWorker(submit=pack_submit(part)))
            self._writer_waits = self._loop.create_future()
            await self._writer_waits
            self._writer_waits = None

    def _with_following(self, prompts: PromptColumns) -> PromptColumns:
        """Merge prompts with those queued directly after them, up to MAX_SUBMIT_TOKENS."""
        parts, num_tokens = [prompts], len(prompts.prompt_tokens)
        while self._outgoing and isinstance(following := self._outgoing[0], PromptColumns):
            num_tokens += len(following.prompt_tokens)
            if num_tokens > MAX_SUBMIT_TOKENS:
                break
            parts.append(following)
            self._outgoing.popleft()
        return merge_prompts(parts)

    def _ping(self) -> int:
        nonce = self._num_pings
        self._num_pings += 1
        self._beats_since_ping = 0
        self._pings[nonce] = time.monotonic_ns()
        self._enqueue(pb.ToWorker(ping=pb.Ping(nonce=nonce)))
        return nonce

    def _take_pong(self, pong: pb.Pong) -> None:
        sent_ns = self._pings.pop(pong.nonce, None)
        if sent_ns is None:
            raise FrameError(f"pong {pong.nonce} without a ping")
        if pong.worker_ns < self._worker_ns:
            raise FrameError(f"clock went back from {self._worker_ns} to {pong.worker_ns} ns")
        if pong.worker_ns > MAX_NS:
            raise FrameError(f"pong: worker_ns {pong.worker_ns} exceeds {MAX_NS}, the largest monotonic time")
        counts, now_ns = self.counts, time.monotonic_ns()
        round_trip_ns = now_ns - sent_ns
        if not counts.round_trip_ns or round_trip_ns < counts.round_trip_ns:
            counts.round_trip_ns = round_trip_ns
            offset_ns = pong.worker_ns - (sent_ns + now_ns) // 2
            counts.clock_offset_ns = offset_ns if abs(offset_ns) > round_trip_ns // 2 else 0
        counts.pings.extend((sent_ns, pong.worker_ns, now_ns))
        self._worker_ns = pong.worker_ns
        self._take_load(pong.load)
        counts.engine_steps, counts.produced_tokens = pong.steps, pong.produced_tokens
        # They decide nothing: what contradicts the tokens counts as not known.
        is_known = pong.decode_rows <= pong.decode_tokens <= pong.produced_tokens
        counts.decode_rows = pong.decode_rows if is_known else 0
        counts.decode_tokens = pong.decode_tokens if is_known else 0
        self._pong_came.set()

    def _take_load(self, load: pb.EngineLoad) -> None:
        self.reading = EngineReading.of(load)
        self.counts.compiled = KernelCompilations.of(load)

    async def _lost(self, error: BaseException | None) -> WorkerLost:
        """Return a WorkerLost with the reason why the call ended: the worker's status if it sent one."""
        if isinstance(error, TimeoutError):
            return WorkerLost(self._address, f"no answer within {CALL_TIMEOUT_S:g} s")
        end = await self._final_status.wait(self._open_call, STATUS_TIMEOUT_S)
        if end is None:
            return WorkerLost(self._address, "stream ended" if error is None else f"stream broke: {error}")
        code, details = end
        if code is grpc.StatusCode.OK:
            return WorkerLost(self._address, "stream ended")
        kind = WorkerRefused if code in _REFUSALS else WorkerLost
        return kind(self._address, f"{code.name}: {details}")
