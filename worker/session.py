"""One Generate stream: passes prompts to the engine and sends token frames back until either side ends it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from common.idle_timer import IdleTimer
from protos import worker_pb2 as pb
from protos.columns import FrameError, TokenColumns, TokenTimes, unpack_requests, unpack_submit
from protos.hashes import run_hash
from worker.admission import InFlight, LimitExceeded, check_prompts
from worker.engine_protocol import Engine, Step
from worker.outbox import Outbox

Write = Callable[[pb.FromWorker], Awaitable[None]]

# A coordinator pings at most once per second; if this many pongs are unread, it has stopped reading.
MAX_UNREAD_PONGS = 1024
TICK_S = 1.0
# Limit for the loops and an in-flight write to end; after that the engine is reset regardless.
END_TIMEOUT_S = 2.0
LOAD_INTERVAL_S = 1.0
"""The first frame of tokens this long after the last report of the load reports it again."""


class SessionCounts(NamedTuple):
    """What a session has received and sent."""

    requests: int = 0
    prompt_tokens: int = 0
    """Of the requests received."""
    finished_requests: int = 0
    tokens: int = 0
    """Produced by the engine."""
    steps: int = 0
    """Engine steps that returned output."""
    frames: int = 0
    """Token frames sent."""


class DecodeCounts(NamedTuple):
    """Rows of engine steps without their request's first token, and the tokens of these rows."""

    rows: int = 0
    tokens: int = 0

    def plus(self, columns: TokenColumns) -> "DecodeCounts":
        """Add the rows of a step; a row without tokens does not count."""
        begun = columns.times.first_rows if columns.times is not None else []
        if columns.counts is None:
            num = len(columns.requests) - len(begun)
            return DecodeCounts(self.rows + num, self.tokens + num)
        later = np.delete(columns.counts, begun)
        return DecodeCounts(self.rows + int(np.count_nonzero(later)), self.tokens + int(later.sum()))


class CoordinatorGone(Exception):
    """The stream is open, but the coordinator has stopped sending or reading; the message names which."""


class Session:
    """Four loops over one stream; the first loop to end ends the session."""

    def __init__(
        self,
        opening: pb.Open,
        engine: Engine,
        info: pb.WorkerInfo,
        outbox: Outbox,
        coordinator_timeout_s: float,
        read_load: Callable[[], pb.EngineLoad],
    ) -> None:
        """Create a session and queue `opened`, the answer to `open`.

        Args:
            opening: First message of the stream.
            engine: Empty engine.
            info: This worker.
            outbox: Empty outbox.
            coordinator_timeout_s: See WorkerServicer.
            read_load: Returns the load of the engine and its accelerators.
        """
        self.run_id = opening.run_id
        self._outbox = outbox
        self.produced_tokens = 0
        self._decoded = DecodeCounts()
        self._num_steps = self._num_requests = self._num_prompt_tokens = self._num_finished = 0
        self._engine = engine
        self._read_load = read_load
        self._load_due_s = 0.0
        """When the load is to be reported again."""
        self._info = info
        self._spec = opening.spec
        self._in_flight = InFlight()
        self._coordinator_timeout_s = coordinator_timeout_s
        self._tick_s = min(TICK_S, coordinator_timeout_s / 5)
        self._received = IdleTimer(self._tick_s)
        self._sent = IdleTimer(self._tick_s)
        self._writing = False
        self._ending = False
        opened = pb.Opened(info=info, spec_hash=run_hash(opening.spec, info), run_id=opening.run_id)
        outbox.put_control(pb.FromWorker(opened=opened))

    @property
    def num_frames(self) -> int:
        """Token frames sent so far."""
        return self._outbox.num_frames

    @property
    def counts(self) -> SessionCounts:
        """Counts so far."""
        return SessionCounts(
            requests=self._num_requests,
            prompt_tokens=self._num_prompt_tokens,
            finished_requests=self._num_finished,
            tokens=self.produced_tokens,
            steps=self._num_steps,
            frames=self.num_frames,
        )

    async def serve(self, inbound: AsyncIterator[pb.ToWorker], write: Write) -> None:
        """Serve until the coordinator closes its side of the stream.

        Raises:
            FrameError: A message violates the protocol or its bounds.
            LimitExceeded: More requests, prompt tokens or unread pongs than this worker accepts.
            CoordinatorGone: The coordinator has sent or read nothing for the timeout.
            EngineDead: The engine will produce no more tokens.
            RunFailed: The engine will produce no more tokens of this run.
        """
        works = (self._step(), self._read(inbound), self._watch(), self._send(write))
        loops = [asyncio.ensure_future(work) for work in works]
        try:
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = [loop for loop in loops if loop.done()]
            await self._stop(loops)
        for loop in ended:
            loop.result()

    async def _stop(self, loops: list[asyncio.Task[None]]) -> None:
        """Cancel the loops but let a started write finish: after a cancelled write gRPC drops the status."""
        self._ending = True
        for loop in loops:
            # The first loop to end determines the status; errors of the others while they stop are ignored.
            loop.add_done_callback(_retrieve_exception)
        for loop in loops[:-1] if self._writing else loops:
            loop.cancel()
        _, late = await asyncio.wait(loops, timeout=END_TIMEOUT_S)
        for loop in late:
            loop.cancel()

    async def _read(self, inbound: AsyncIterator[pb.ToWorker]) -> None:
        try:
            async for message in inbound:
                self._received.mark_active()
                self._take(message)
        except DecodeError as error:
            raise FrameError("not a message of this protocol") from error

    def _take(self, message: pb.ToWorker) -> None:
        kind = message.WhichOneof("message")
        if kind == "submit":
            received_ns = time.monotonic_ns()
            prompts = unpack_submit(message.submit)
            check_prompts(prompts, self._spec, self._info)
            self._in_flight.add(prompts, received_ns)
            self._num_requests += len(prompts.requests)
            self._num_prompt_tokens += len(prompts.prompt_tokens)
            self._engine.submit(prompts)
        elif kind == "ping":
            self._queue_pong(message.ping.nonce)
        elif kind == "cancel":
            requests = unpack_requests(message.cancel.requests)
            self._in_flight.remove(requests)
            self._engine.cancel(requests.tolist())
        else:
            raise FrameError(f"unexpected message: {kind}")

    async def _step(self) -> None:
        """Pass the tokens of each engine step to the outbox."""
        while True:
            step = await self._engine.step()
            self._num_steps += 1
            self.produced_tokens += len(step.columns.tokens)
            self._num_finished += len(step.columns.finished_rows)
            self._decoded = self._decoded.plus(step.columns)
            if step.columns.times is not None:
                step = self._with_received(step, step.columns.times)
            self._in_flight.remove(step.columns.requests[step.columns.finished_rows])
            self._outbox.put(step)

    def _with_received(self, step: Step, times: TokenTimes) -> Step:
        """Add when the requests that begin with a step were taken from the stream."""
        received_ns = self._in_flight.begin(step.columns.requests[times.first_rows])
        columns = step.columns._replace(times=times._replace(received_ns=received_ns))
        return step._replace(columns=columns)

    async def _send(self, write: Write) -> None:
        while not self._ending:
            message = await self._outbox.next()
            if time.monotonic() >= self._load_due_s and message.WhichOneof("message") == "tokens":
                message.tokens.load.CopyFrom(self._report_load())
            self._writing = True
            await write(message)
            self._writing = False
            self._sent.mark_active()

    async def _watch(self) -> None:
        """End a session whose coordinator sends nothing, or does not read the messages sent to it."""
        while True:
            await asyncio.sleep(self._tick_s)
            if not self._writing:
                # No message is waiting for the coordinator to read it.
                self._sent.mark_active()
            self._check(self._received, "silent")
            self._check(self._sent, "reads nothing")

    def _check(self, timer: IdleTimer, failure: str) -> None:
        timer.tick()
        if timer.idle_s >= self._coordinator_timeout_s:
            raise CoordinatorGone(f"coordinator {failure} for {self._coordinator_timeout_s:g} s")

    def _queue_pong(self, nonce: int) -> None:
        num_unread = self._outbox.num_control
        if num_unread >= MAX_UNREAD_PONGS:
            raise LimitExceeded(f"{num_unread} pongs unread, this worker keeps {MAX_UNREAD_PONGS}")
        pong = pb.Pong(
            nonce=nonce,
            worker_ns=time.monotonic_ns(),
            produced_tokens=self.produced_tokens,
            steps=self._num_steps,
            load=self._report_load(),
            decode_rows=self._decoded.rows,
            decode_tokens=self._decoded.tokens,
        )
        self._outbox.put_control(pb.FromWorker(pong=pong))

    def _report_load(self) -> pb.EngineLoad:
        self._load_due_s = time.monotonic() + LOAD_INTERVAL_S
        return self._read_load()


def _retrieve_exception(ended: asyncio.Task[None]) -> None:
    """Mark a task's exception as retrieved, so that asyncio does not log it."""
    if not ended.cancelled():
        ended.exception()
