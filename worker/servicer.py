"""The gRPC Worker service of one engine: admits one run at a time and maps failures to gRPC statuses.

| failure | status |
|---|---|
| run token missing, wrong, or not expected (auth.py) | UNAUTHENTICATED |
| malformed or unexpected message, prompt out of bounds | INVALID_ARGUMENT |
| another run uses the worker, other protocol version | FAILED_PRECONDITION |
| more requests in flight than a worker accepts | RESOURCE_EXHAUSTED |
| no `open` in time, or the coordinator stopped sending or reading | DEADLINE_EXCEEDED |
| the worker loads or drains, the engine died | UNAVAILABLE |
| a Network SUT's run failed on its workers | ABORTED |
"""

import asyncio
import contextlib
import logging
import os
import socket
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from google.protobuf.message import DecodeError

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import PROTOCOL_VERSION, FrameError
from protos.hashes import engine_hash
from worker.admission import LimitExceeded, check_run_id, check_spec
from worker.engine_protocol import Engine, EngineDead, EngineInfo, RunFailed
from worker.machine.gpu_sampler import GpuSampler
from worker.machine.host_info import HostInspector
from worker.outbox import Outbox
from worker.session import END_TIMEOUT_S, CoordinatorGone, Session, SessionCounts

logger = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 10.0
# Longer than an engine's own limit: the vLLM engine takes up to 10 s to abort its requests.
RESET_TIMEOUT_S = 20.0
# A run whose coordinator is gone may still be leaving the engine; coordinators wait 5 s for `opened`.
LEAVING_TIMEOUT_S = 4.0
# The status is queued after frames that the peer has not read. The worker is already free by then.
ABORT_TIMEOUT_S = 5.0
# gRPC may refuse metadata of 8 KB or more, and encodes each non-ASCII byte as three.
MAX_REASON_BYTES = 2000
AskNodes = Callable[[], Awaitable[list[str]]]
Context = grpc.aio.ServicerContext[pb.ToWorker, pb.FromWorker]


class RunRefused(Exception):
    """The run cannot begin on this worker; the message gives the reason."""


class NotReady(Exception):
    """The worker serves no run in its present state; it may later, or a process in its place."""


_STATUS: dict[type[Exception], grpc.StatusCode] = {
    FrameError: grpc.StatusCode.INVALID_ARGUMENT,
    RunRefused: grpc.StatusCode.FAILED_PRECONDITION,
    LimitExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    CoordinatorGone: grpc.StatusCode.DEADLINE_EXCEEDED,
    NotReady: grpc.StatusCode.UNAVAILABLE,
    EngineDead: grpc.StatusCode.UNAVAILABLE,
    RunFailed: grpc.StatusCode.ABORTED,
}


class WorkerServicer(rpc.WorkerServicer):
    """The Worker service over one engine."""

    def __init__(
        self,
        engine: Engine,
        hold_ns: int,
        coordinator_timeout_s: float,
        ask_nodes: AskNodes | None = None,
        gpus: GpuSampler | None = None,
    ) -> None:
        """Create the service in state LOADING.

        Args:
            engine: Engine that the server starts; used by one run at a time.
            hold_ns: See Outbox.
            coordinator_timeout_s: A run ends when its coordinator has sent or read nothing for this long.
            ask_nodes: Network SUT: asks every node behind it for its name; each frame has one request.
            gpus: Readings of the GPUs; None: none are reported.
        """
        self._engine = engine
        self._ask_nodes = ask_nodes
        self._gpus = gpus or GpuSampler()
        self._hold_ns = hold_ns
        self._coordinator_timeout_s = coordinator_timeout_s
        self._state: pb.WorkerState = pb.WORKER_STATE_LOADING
        self._description = pb.WorkerInfo(
            protocol_version=PROTOCOL_VERSION,
            instance_id=uuid.uuid4().hex,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            coordinator_timeout_s=coordinator_timeout_s,
        )
        self._host = HostInspector()
        self._other_hosts: tuple[pb.HostInfo, ...] = ()
        self._session: Session | None = None
        self._ended_counts = SessionCounts()
        """Sum over the sessions that have ended."""
        self.num_runs = 0
        """Runs accepted."""
        self.failed_calls: Counter[grpc.StatusCode] = Counter()
        """Calls of Generate that ended with an error, by status."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._idle_watcher: asyncio.Task[None] | None = None
        self._is_closed = False
        self._teardown: asyncio.Task[None] | None = None
        self._death: str | None = None
        self._died = asyncio.Event()

    @property
    def engine_death(self) -> str | None:
        """Why the engine died, during a run or between runs; None while it is alive."""
        return self._death

    @property
    def info(self) -> pb.WorkerInfo:
        """This worker, as GetInfo describes it."""
        return self._info()

    @property
    def is_busy(self) -> bool:
        """Whether a run holds the worker."""
        return self._session is not None

    @property
    def served(self) -> SessionCounts:
        """Counts over all runs, the current one included."""
        current = SessionCounts() if self._session is None else self._session.counts
        return SessionCounts(*map(sum, zip(self._ended_counts, current, strict=True)))

    async def wait_engine_death(self) -> None:
        """Wait until the engine has died."""
        await self._died.wait()

    async def wait_idle(self) -> None:
        """Wait until no run holds the worker."""
        await self._idle.wait()

    def admit_runs(self, info: EngineInfo) -> None:
        """Enter state READY with a started engine.

        Raises:
            ValueError: A value of `info` does not fit its field of pb.WorkerInfo.
        """
        self._description.MergeFrom(
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
                engine_facts=info.engine_facts,
                execution_facts=info.execution_facts,
                weights_sha256=info.weights_sha256,
                warnings=info.warnings,
            )
        )
        self._description.MergeFrom(pb.WorkerInfo(engine_hash=engine_hash(self._description)))
        self._other_hosts = info.other_hosts
        self._state = pb.WORKER_STATE_READY
        self._start_idle_watcher()

    def read_load(self) -> pb.EngineLoad:
        """Return the load of the engine and of its accelerators.

        Thread: any; does not block.
        """
        load = self._engine.load()
        return pb.EngineLoad(
            running=load.running,
            waiting=load.waiting,
            kv_use=load.kv_use,
            gpus=self._gpus.latest(),
            compiled=None if load.compiled is None else pb.CompiledKernels(**load.compiled._asdict()),
        )

    def drain(self) -> None:
        """Enter state DRAINING: the current run continues, new runs are refused."""
        self._state = pb.WORKER_STATE_DRAINING

    async def close(self) -> None:
        """Stop watching the engine and wait until it is emptied, bounded, so that it can be closed.

        Called when the gRPC server has stopped: it waits for no call that it has cancelled.
        """
        self._is_closed = True
        if self._idle_watcher is not None:
            self._idle_watcher.cancel()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), END_TIMEOUT_S + RESET_TIMEOUT_S)

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.WorkerInfo:
        """Describe this worker, in every state."""
        return self._info()

    async def GetLoad(self, request: pb.GetLoadRequest, context: Context) -> pb.WorkerLoad:
        """Report the requests in the engine and the token counts of the current run."""
        if self._session is None:
            return pb.WorkerLoad(gpus=self._gpus.latest())
        load = self.read_load()
        return pb.WorkerLoad(
            run_id=self._session.run_id,
            running=load.running,
            waiting=load.waiting,
            kv_use=load.kv_use if load.HasField("kv_use") else None,
            gpus=load.gpus,
            produced_tokens=self._session.produced_tokens,
            frames=self._session.num_frames,
        )

    async def GetHost(self, request: pb.GetHostRequest, context: Context) -> pb.HostInfo:
        """Describe the machine this worker runs on, in every state."""
        host = await self._host.read()
        host.engine_hosts.extend(self._other_hosts)
        if self._ask_nodes is not None:
            host.nodes.extend(await self._ask_nodes())
        return host

    async def Generate(  # type: ignore[override]  # grpc.aio also accepts a coroutine that writes
        self, request_iterator: AsyncIterator[pb.ToWorker], context: Context
    ) -> None:
        """Serve one run."""
        try:
            first = await self._first(request_iterator)
            if self._teardown is not None:
                await asyncio.wait({self._teardown}, timeout=LEAVING_TIMEOUT_S)
            session = self._begin(first)
        except tuple(_STATUS) as error:
            await self._abort(context, error)
            return
        failure: Exception | None = None
        try:
            await session.serve(request_iterator, context.write)
        except tuple(_STATUS) as error:
            failure = error
        finally:
            # A cancelled call must not interrupt the reset: the next run needs an empty engine.
            self._teardown = asyncio.ensure_future(self._end(session, failure))
            await asyncio.shield(self._teardown)
        if failure is not None:
            await self._abort(context, failure)

    def _info(self) -> pb.WorkerInfo:
        info = pb.WorkerInfo(state=self._state)
        info.MergeFrom(self._description)
        return info

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
        self.failed_calls[status] += 1
        reason = whole.encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore")
        try:
            async with asyncio.timeout(ABORT_TIMEOUT_S):
                await context.abort(status, reason)
        except (TimeoutError, grpc.aio.InternalError) as error:
            # The peer does not read, or has closed the connection.
            logger.warning("%s: %s (%s) not delivered: %r", context.peer(), status.name, reason, error)

    def _begin(self, first: pb.ToWorker) -> Session:
        """Check the first message and start a session.

        Raises:
            FrameError: The message is not a valid `open`.
            RunRefused: Another run uses this worker, or it speaks another protocol version.
            NotReady: This worker is not ready.
        """
        if first.WhichOneof("message") != "open":
            raise FrameError("the first message must be open")
        opening = first.open
        if opening.protocol_version != PROTOCOL_VERSION:
            raise RunRefused(
                f"protocol version {opening.protocol_version}, this worker speaks {PROTOCOL_VERSION}"
            )
        if self._state != pb.WORKER_STATE_READY:
            raise NotReady(f"worker is {pb.WorkerState.Name(self._state)}")
        if self._session is not None:
            raise RunRefused(f"run {self._session.run_id} holds this worker")
        info = self._info()
        check_run_id(opening.run_id)
        check_spec(opening.spec, info)
        try:
            self._engine.open(opening.spec)
        except ValueError as error:
            raise FrameError(f"the engine refuses the specification: {error}") from error
        if self._idle_watcher is not None:
            self._idle_watcher.cancel()
        self._idle.clear()
        outbox = Outbox(self._hold_ns, single=self._ask_nodes is not None)
        self._session = Session(
            opening, self._engine, info, outbox, self._coordinator_timeout_s, self.read_load
        )
        self.num_runs += 1
        logger.info("run %s begins", opening.run_id)
        return self._session

    def _set_dead(self, reason: str) -> None:
        self._death = reason
        self._state = pb.WORKER_STATE_FAILED
        self._died.set()

    def _start_idle_watcher(self) -> None:
        self._idle_watcher = asyncio.ensure_future(self._watch_idle())

    async def _watch_idle(self) -> None:
        """Detect the engine's death between runs: an empty engine's step() only returns by raising."""
        try:
            while True:
                await self._engine.step()
        except EngineDead as error:
            self._set_dead(str(error))

    async def _end(self, session: Session, failure: Exception | None) -> None:
        """Reset the engine and free the worker; an engine that fails to reset counts as dead."""
        resetting = asyncio.ensure_future(self._engine.reset())
        # asyncio.timeout would keep waiting for an engine that ignores its cancellation.
        await asyncio.wait({resetting}, timeout=RESET_TIMEOUT_S)
        is_reset = resetting.done() and resetting.exception() is None
        death = str(failure) if isinstance(failure, EngineDead) else None
        if not is_reset:
            why = repr(resetting.exception()) if resetting.done() else f"not within {RESET_TIMEOUT_S:g} s"
            logger.error("run %s: the engine was not emptied: %s", session.run_id, why)
            death = death or f"it was not emptied: {why}"
        logger.log(
            logging.ERROR if failure else logging.INFO,
            "run %s ends (%s): %d tokens, %d frames",
            session.run_id,
            failure or "stream closed",
            session.produced_tokens,
            session.num_frames,
        )
        self._ended_counts = self.served
        self._session = None
        if death is not None:
            self._set_dead(death)
        elif not self._is_closed:
            self._start_idle_watcher()
        self._idle.set()
