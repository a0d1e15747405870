"""One open stream: prompts go to the engine, frames come back, until either side ends it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from google.protobuf.message import DecodeError

from protos import worker_pb2 as pb
from protos.columns import FrameError, unpack_requests, unpack_submit
from worker.admission import InFlight, TooMuch, check_prompts
from worker.engine_protocol import Engine
from worker.outbox import Outbox
from worker.spec_hash import spec_hash

Write = Callable[[pb.FromWorker], Awaitable[None]]

# The coordinator pings each second at most; who leaves this many pongs unread reads nothing at all.
MAX_UNREAD_PONGS = 1024
TICK_S = 1.0
# For the loops to end, and the write that is under way: then the engine is emptied, whatever holds them up.
END_TIMEOUT_S = 2.0


class CoordinatorGone(Exception):
    """The stream is open and nobody seems to be at its other end; the message says why."""


class Run:
    """Four loops over one stream; the first to end ends the run."""

    def __init__(
        self,
        opening: pb.Open,
        engine: Engine,
        info: pb.WorkerInfo,
        outbox: Outbox,
        coordinator_timeout_s: float,
    ) -> None:
        """Queue the answer to `open`."""
        self.run_id = opening.run_id
        self.outbox = outbox
        self.produced_tokens = 0
        self._num_steps = 0
        self._engine = engine
        self._info = info
        self._spec = opening.spec
        self._in_flight = InFlight()
        self._coordinator_timeout_s = coordinator_timeout_s
        # What _watch looks at: anything read, and anything written, since it last looked.
        self._heard = False
        self._writing = self._written = False
        self._ending = False
        opened = pb.Opened(info=info, spec_hash=spec_hash(opening.spec, info), run_id=opening.run_id)
        outbox.put_control(pb.FromWorker(opened=opened))

    async def serve(self, inbound: AsyncIterator[pb.ToWorker], write: Write) -> None:
        """Serve until the coordinator closes its side.

        Raises:
            FrameError: A message that breaks the protocol or its bounds.
            TooMuch: More at once than a worker takes.
            CoordinatorGone: It says nothing or reads nothing any more.
            EngineDead: The engine will produce nothing more.
        """
        works = (self._pump(), self._read(inbound), self._watch(), self._send(write))
        loops = [asyncio.ensure_future(work) for work in works]
        try:
            await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = [loop for loop in loops if loop.done()]
            await self._stop(loops)
        for loop in ended:
            loop.result()

    async def _stop(self, loops: list[asyncio.Task[None]]) -> None:
        """Cancel the loops, but for a write under way: gRPC takes no status beside one that was given up."""
        self._ending = True
        for loop in loops:
            # The first to end tells the status; what the others meet with while they stop is of no use.
            loop.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        for loop in loops[:-1] if self._writing else loops:
            loop.cancel()
        _, late = await asyncio.wait(loops, timeout=END_TIMEOUT_S)
        for loop in late:
            loop.cancel()

    async def _read(self, inbound: AsyncIterator[pb.ToWorker]) -> None:
        try:
            async for message in inbound:
                self._heard = True
                self._take(message)
        except DecodeError as error:
            raise FrameError("not a message of this protocol") from error

    def _take(self, message: pb.ToWorker) -> None:
        kind = message.WhichOneof("message")
        if kind == "submit":
            prompts = unpack_submit(message.submit)
            check_prompts(prompts, self._spec, self._info)
            self._in_flight.add(prompts)
            self._engine.submit(prompts)
        elif kind == "ping":
            self._answer(message.ping.nonce)
        elif kind == "cancel":
            requests = unpack_requests(message.cancel.requests)
            self._in_flight.remove(requests)
            self._engine.cancel(requests.tolist())
        else:
            raise FrameError(f"unexpected message: {kind}")

    async def _pump(self) -> None:
        while True:
            step = await self._engine.step()
            self._num_steps += 1
            self.produced_tokens += len(step.columns.tokens)
            self._in_flight.remove(step.columns.requests[step.columns.finished_rows])
            self.outbox.put(step)

    async def _send(self, write: Write) -> None:
        while not self._ending:
            message = await self.outbox.next()
            self._writing = True
            await write(message)
            self._writing, self._written = False, True

    async def _watch(self) -> None:
        """End the run of a coordinator that says nothing, or reads nothing of what waits for it.

        Counted in ticks of this loop, none worth more than two: when this process was itself stopped or
        busy, the time is not the coordinator's, and what it said meanwhile lies unread in the socket. A
        deadline on the clock would fall due before the first of it is read.
        """
        tick_s = min(TICK_S, self._coordinator_timeout_s / 5)
        unheard_s = unread_s = 0.0
        while max(unheard_s, unread_s) < self._coordinator_timeout_s:
            self._heard = self._written = False
            begun_s = time.monotonic()
            await asyncio.sleep(tick_s)
            passed_s = min(time.monotonic() - begun_s, 2 * tick_s)
            unheard_s = 0.0 if self._heard else unheard_s + passed_s
            unread_s = unread_s + passed_s if self._writing and not self._written else 0.0
        what = "silent" if unheard_s >= self._coordinator_timeout_s else "reads nothing"
        raise CoordinatorGone(f"coordinator {what} for {self._coordinator_timeout_s:g} s")

    def _answer(self, nonce: int) -> None:
        if self.outbox.num_control >= MAX_UNREAD_PONGS:
            raise TooMuch(f"{self.outbox.num_control} pongs unread, this worker keeps {MAX_UNREAD_PONGS}")
        pong = pb.Pong(
            nonce=nonce,
            worker_ns=time.monotonic_ns(),
            produced_tokens=self.produced_tokens,
            steps=self._num_steps,
        )
        self.outbox.put_control(pb.FromWorker(pong=pong))
