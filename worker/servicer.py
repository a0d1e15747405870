"""The Worker service: which run holds the engine, and with which status its stream ends.

| what happened | status |
|---|---|
| no run token, a wrong one, or one that this worker does not have (door.py) | UNAUTHENTICATED |
| malformed message, wrong order, prompt outside the limits | INVALID_ARGUMENT |
| another run holds the worker, not ready, other protocol version | FAILED_PRECONDITION |
| more in flight than a worker takes | RESOURCE_EXHAUSTED |
| no `open` in time, a coordinator that says or reads nothing | DEADLINE_EXCEEDED |
| the engine died | UNAVAILABLE |
"""

import asyncio
import logging
import os
import socket
import uuid
from collections.abc import AsyncIterator

import grpc
from google.protobuf.message import DecodeError

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import PROTOCOL_VERSION, FrameError
from worker.admission import TooMuch, check_run_id, check_spec
from worker.engine_protocol import Engine, EngineDead, EngineInfo
from worker.machine.host_info import Host
from worker.outbox import Outbox
from worker.session import CoordinatorGone, Run

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 10.0
# Longer than an engine's own limit: vLLM gives its requests 10 s.
RESET_TIMEOUT_S = 20.0
# A status waits behind a frame that nobody reads; the worker itself is free before it is sent.
ABORT_TIMEOUT_S = 5.0
# gRPC may refuse metadata from 8 KB on, and writes a byte that is not ASCII as three.
MAX_REASON_BYTES = 2000
Context = grpc.aio.ServicerContext[pb.ToWorker, pb.FromWorker]


class Refused(Exception):
    """The run cannot begin here; the message names the reason."""


class WorkerServicer(rpc.WorkerServicer):
    """The Worker service over one engine."""

    def __init__(self, engine: Engine, hold_ns: int, coordinator_timeout_s: float) -> None:
        """Create the service in state LOADING.

        Args:
            engine: Started by the server, used by one run at a time.
            hold_ns: See Outbox.
            coordinator_timeout_s: How long a run's coordinator may say nothing, or read nothing.
        """
        self._engine = engine
        self._hold_ns = hold_ns
        self._coordinator_timeout_s = coordinator_timeout_s
        self._run: Run | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._info = pb.WorkerInfo(
            protocol_version=PROTOCOL_VERSION,
            instance_id=uuid.uuid4().hex,
            state=pb.WORKER_STATE_LOADING,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            coordinator_timeout_s=coordinator_timeout_s,
        )
        self._host = Host()
        self._watcher: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self.engine_dead = asyncio.Event()
        """Set when the engine died, under a run or without one."""
        self.death = ""
        """Why it did."""

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

    async def GetHost(self, request: pb.GetHostRequest, context: Context) -> pb.HostInfo:
        """Answer what machine this worker runs on, in every state."""
        return await self._host.describe()

    async def Generate(  # type: ignore[override]  # grpc.aio lets a method write
        self, request_iterator: AsyncIterator[pb.ToWorker], context: Context
    ) -> None:
        """Serve one run."""
        try:
            run = self._begin(await self._first(request_iterator))
        except tuple(_STATUS) as error:
            await self._abort(context, error)
            return
        failure: Exception | None = None
        try:
            await run.serve(request_iterator, context.write)
        except tuple(_STATUS) as error:
            failure = error
        finally:
            # Shielded, and held: the coordinator may be gone, the next run still needs an empty engine.
            self._ending = asyncio.ensure_future(self._end(run, failure))
            await asyncio.shield(self._ending)
        if failure is not None:
            await self._abort(context, failure)

    async def _first(self, messages: AsyncIterator[pb.ToWorker]) -> pb.ToWorker:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                return await anext(messages, pb.ToWorker())
        except TimeoutError as error:
            raise CoordinatorGone(f"no open within {OPEN_TIMEOUT_S:g} s") from error
        except DecodeError as error:
            raise FrameError("not a message of this protocol") from error

    async def _abort(self, context: Context, failure: Exception) -> None:
        status = next(status for kind, status in _STATUS.items() if isinstance(failure, kind))
        whole = f"engine died: {failure}" if isinstance(failure, EngineDead) else str(failure)
        reason = whole.encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore")
        try:
            async with asyncio.timeout(ABORT_TIMEOUT_S):
                await context.abort(status, reason)
        except (TimeoutError, grpc.aio.InternalError) as error:
            # The peer reads nothing, or has gone meanwhile.
            logger.warning("%s: %s (%s) not delivered: %r", context.peer(), status.name, reason, error)

    def _begin(self, first: pb.ToWorker) -> Run:
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
        check_run_id(opening.run_id)
        check_spec(opening.spec, self._info)
        try:
            self._engine.open(opening.spec)
        except ValueError as error:
            raise FrameError(f"the engine refuses the specification: {error}") from error
        if self._watcher is not None:
            self._watcher.cancel()
        self._idle.clear()
        self._run = Run(opening, self._engine, self._info, Outbox(self._hold_ns), self._coordinator_timeout_s)
        logger.info("run %s begins", opening.run_id)
        return self._run

    def _mourn(self, death: str) -> None:
        self.death = death
        self.enter(pb.WORKER_STATE_FAILED)
        self.engine_dead.set()

    async def _watch_idle(self) -> None:
        """An empty engine's next step never comes; its death does."""
        try:
            while True:
                await self._engine.step()
        except EngineDead as error:
            self._mourn(str(error))

    async def _end(self, run: Run, failure: Exception | None) -> None:
        """Empty the engine and free the worker; an engine that does not let go is dead."""
        emptying = asyncio.ensure_future(self._engine.reset())
        # No timeout around it: that would go on waiting for an engine that ignores being cancelled.
        await asyncio.wait({emptying}, timeout=RESET_TIMEOUT_S)
        emptied = emptying.done() and emptying.exception() is None
        death = str(failure) if isinstance(failure, EngineDead) else None
        if not emptied:
            why = repr(emptying.exception()) if emptying.done() else f"not within {RESET_TIMEOUT_S:g} s"
            logger.error("run %s: the engine was not emptied: %s", run.run_id, why)
            death = death or f"it was not emptied: {why}"
        logger.log(
            logging.ERROR if failure else logging.INFO,
            "run %s ends (%s): %d tokens, %d frames",
            run.run_id,
            failure or "stream closed",
            run.produced_tokens,
            run.outbox.num_frames,
        )
        self._run = None
        if death is None:
            self.watch()
        else:
            self._mourn(death)
        self._idle.set()


_STATUS: dict[type[Exception], grpc.StatusCode] = {
    FrameError: grpc.StatusCode.INVALID_ARGUMENT,
    Refused: grpc.StatusCode.FAILED_PRECONDITION,
    TooMuch: grpc.StatusCode.RESOURCE_EXHAUSTED,
    CoordinatorGone: grpc.StatusCode.DEADLINE_EXCEEDED,
    EngineDead: grpc.StatusCode.UNAVAILABLE,
}
