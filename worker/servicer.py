"""One stream: a run opens it, prompts go to the engine, frames come back until either side closes.

| what happened | status |
|---|---|
| no run token, a wrong one, or one that this worker does not have (door.py) | UNAUTHENTICATED |
| malformed message, wrong order, prompt outside the limits | INVALID_ARGUMENT |
| another run holds the worker, not ready, other protocol version | FAILED_PRECONDITION |
| the engine died | UNAVAILABLE |
| no `open` in time | DEADLINE_EXCEEDED |
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import numpy as np

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.frames import (
    PROTOCOL_VERSION,
    FrameError,
    PromptColumns,
    spec_hash,
    unpack_requests,
    unpack_submit,
)
from worker.engine import Engine, EngineDead, EngineInfo
from worker.outbox import Outbox

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 10.0
Write = Callable[[pb.FromWorker], Awaitable[None]]
Context = grpc.aio.ServicerContext[pb.ToWorker, pb.FromWorker]


class Refused(Exception):
    """The run cannot begin here; the message names the reason."""


class WorkerServicer(rpc.WorkerServicer):
    """The Worker service over one engine."""

    def __init__(self, engine: Engine, hold_ns: int) -> None:
        """Create the service in state LOADING.

        Args:
            engine: Started by the server, used by one run at a time.
            hold_ns: See Outbox.
        """
        self._engine = engine
        self._hold_ns = hold_ns
        self._run: Run | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._info = pb.WorkerInfo(
            protocol_version=PROTOCOL_VERSION,
            instance_id=uuid.uuid4().hex,
            state=pb.WORKER_STATE_LOADING,
            hostname=socket.gethostname(),
            pid=os.getpid(),
        )
        self._watcher: asyncio.Task[None] | None = None
        self.engine_dead = asyncio.Event()
        """Set when the engine died, under a run or without one."""

    def describe(self, info: EngineInfo) -> None:
        """Fill in what the started engine is."""
        self._info.MergeFrom(
            pb.WorkerInfo(
                engine=info.engine,
                engine_version=info.engine_version,
                model=info.model,
                model_hash=info.model_hash,
                vocab_size=info.vocab_size,
                max_model_len=info.max_model_len,
                max_num_seqs=info.max_num_seqs,
                tensor_parallel_size=info.tensor_parallel_size,
                stop_token_ids=info.stop_token_ids,
                engine_args=info.engine_args,
            )
        )

    def watch(self) -> None:
        """Wait for the engine's death while no run does."""
        self._watcher = asyncio.ensure_future(self._watch_idle())

    def enter(self, state: pb.WorkerState) -> None:
        """Change the state that GetInfo reports; only READY admits a run."""
        self._info.state = state

    async def wait_idle(self) -> None:
        """Wait until no run holds the worker."""
        await self._idle.wait()

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.WorkerInfo:
        """Answer what this worker is, in every state."""
        return self._info

    async def GetLoad(self, request: pb.GetLoadRequest, context: Context) -> pb.WorkerLoad:
        """Answer what this worker is doing."""
        if self._run is None:
            return pb.WorkerLoad()
        load = self._engine.load()
        return pb.WorkerLoad(
            run_id=self._run.run_id,
            running=load.running,
            waiting=load.waiting,
            produced_tokens=self._run.produced_tokens,
            frames=self._run.outbox.num_frames,
        )

    async def Generate(  # type: ignore[override]  # grpc.aio lets a method write
        self, request_iterator: AsyncIterator[pb.ToWorker], context: Context
    ) -> None:
        """Serve one run."""
        status, reason = grpc.StatusCode.OK, ""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                first = await anext(request_iterator, pb.ToWorker())
            run = self._begin(first)
        except TimeoutError:
            status, reason = grpc.StatusCode.DEADLINE_EXCEEDED, f"no open within {OPEN_TIMEOUT_S:g} s"
        except Refused as error:
            status, reason = grpc.StatusCode.FAILED_PRECONDITION, str(error)
        except FrameError as error:
            status, reason = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        if status is not grpc.StatusCode.OK:
            await context.abort(status, reason)
        try:
            await run.serve(request_iterator, context.write)
        except FrameError as error:
            status, reason = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except EngineDead as error:
            status, reason = grpc.StatusCode.UNAVAILABLE, f"engine died: {error}"
            self._mourn()
        finally:
            # Shielded: the coordinator may be gone, the next run still needs an empty engine.
            await asyncio.shield(self._end(run))
        if status is not grpc.StatusCode.OK:
            logger.error("run %s: %s", run.run_id, reason)
            await context.abort(status, reason)

    def _begin(self, first: pb.ToWorker) -> "Run":
        if first.WhichOneof("message") != "open":
            raise FrameError("the first message must be open")
        opening = first.open
        if opening.protocol_version != PROTOCOL_VERSION:
            raise Refused(
                f"protocol version {opening.protocol_version}, this worker speaks {PROTOCOL_VERSION}"
            )
        if self._info.state != pb.WORKER_STATE_READY:
            raise Refused(f"worker is {pb.WorkerState.Name(self._info.state)}")
        if self._run is not None:
            raise Refused(f"run {self._run.run_id} holds this worker")
        check_spec(opening.spec, self._info)
        self._engine.open(opening.spec)
        if self._watcher is not None:
            self._watcher.cancel()
        self._idle.clear()
        self._run = Run(opening, self._engine, self._info, Outbox(self._hold_ns))
        logger.info("run %s begins", opening.run_id)
        return self._run

    def _mourn(self) -> None:
        self.enter(pb.WORKER_STATE_FAILED)
        self.engine_dead.set()

    async def _watch_idle(self) -> None:
        """An empty engine's next step never comes; its death does."""
        try:
            while True:
                await self._engine.step()
        except EngineDead as error:
            logger.error("engine died: %s", error)
            self._mourn()

    async def _end(self, run: "Run") -> None:
        await self._engine.reset()
        self._run = None
        self.watch()
        self._idle.set()
        logger.info(
            "run %s ends: %d tokens, %d frames", run.run_id, run.produced_tokens, run.outbox.num_frames
        )


class Run:
    """One open stream: three loops, the first to end ends the run."""

    def __init__(self, opening: pb.Open, engine: Engine, info: pb.WorkerInfo, outbox: Outbox) -> None:
        """Queue the answer to `open`."""
        self.run_id = opening.run_id
        self.outbox = outbox
        self.produced_tokens = 0
        self._num_steps = 0
        self._engine = engine
        self._info = info
        self._spec = opening.spec
        opened = pb.Opened(info=info, spec_hash=spec_hash(opening.spec, info), run_id=opening.run_id)
        outbox.put_control(pb.FromWorker(opened=opened))

    async def serve(self, inbound: AsyncIterator[pb.ToWorker], write: Write) -> None:
        """Serve until the coordinator closes its side.

        Raises:
            FrameError: A message that breaks the protocol or its bounds.
            EngineDead: The engine will produce nothing more.
        """
        loops = [asyncio.ensure_future(c) for c in (self._read(inbound), self._pump(), self._send(write))]
        try:
            done, _ = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for loop in done:
                loop.result()
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def _read(self, inbound: AsyncIterator[pb.ToWorker]) -> None:
        async for message in inbound:
            kind = message.WhichOneof("message")
            if kind == "submit":
                prompts = unpack_submit(message.submit)
                check_prompts(prompts, self._spec, self._info)
                self._engine.submit(prompts)
            elif kind == "ping":
                self.outbox.put_control(pb.FromWorker(pong=self._pong(message.ping.nonce)))
            elif kind == "cancel":
                self._engine.cancel(unpack_requests(message.cancel.requests).tolist())
            else:
                raise FrameError(f"unexpected message: {kind}")

    async def _pump(self) -> None:
        while True:
            step = await self._engine.step()
            self._num_steps += 1
            self.produced_tokens += len(step.columns.tokens)
            self.outbox.put(step)

    async def _send(self, write: Write) -> None:
        while True:
            await write(await self.outbox.next())

    def _pong(self, nonce: int) -> pb.Pong:
        load = self._engine.load()
        return pb.Pong(
            nonce=nonce,
            worker_ns=time.monotonic_ns(),
            running=load.running,
            waiting=load.waiting,
            produced_tokens=self.produced_tokens,
            steps=self._num_steps,
        )


def check_spec(spec: pb.RunSpec, info: pb.WorkerInfo) -> None:
    """Check a run specification against this worker.

    Raises:
        FrameError: A value out of bounds; the message names it.
    """
    if not 0 <= spec.temperature < float("inf"):
        raise FrameError(f"temperature {spec.temperature} is not 0 or more")
    if not 0 < spec.top_p <= 1:
        raise FrameError(f"top_p {spec.top_p} is not in (0, 1]")
    if spec.top_k == 0 or spec.top_k < -1:
        raise FrameError(f"top_k {spec.top_k} is neither -1 nor 1 or more")
    if not 1 <= spec.max_new_tokens < info.max_model_len:
        raise FrameError(f"max_new_tokens {spec.max_new_tokens} is not in [1, {info.max_model_len})")


def check_prompts(prompts: PromptColumns, spec: pb.RunSpec, info: pb.WorkerInfo) -> None:
    """Check prompts against the model's vocabulary and length and the run's budget.

    Raises:
        FrameError: Names value and bound.
    """
    if not len(prompts.requests):
        return
    low, high = int(prompts.prompt_tokens.min()), int(prompts.prompt_tokens.max())
    if low < 0 or high >= info.vocab_size:
        raise FrameError(f"token id {low if low < 0 else high} outside the vocabulary of {info.vocab_size}")
    longest_answer = int(prompts.max_new_tokens.max())
    if longest_answer > spec.max_new_tokens:
        raise FrameError(f"budget of {longest_answer} tokens beyond the run's {spec.max_new_tokens}")
    longest = int((prompts.prompt_lens.astype(np.int64) + prompts.max_new_tokens).max())
    if longest > info.max_model_len:
        raise FrameError(f"prompt and budget of {longest} tokens beyond max_model_len {info.max_model_len}")
