"""Life cycle of a worker process: listen, load the engine, serve runs, drain and stop; sets its health."""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Coroutine

from grpc_health.v1 import health, health_pb2

from common.metrics import Readings
from common.signals import stop_at_signals
from protos.columns import SERVICE
from worker.auth import AuthInterceptor
from worker.config import BadInput, WorkerConfig
from worker.engine_protocol import Engine, EngineDead
from worker.listener import listening
from worker.machine.gpu_sampler import GpuSampler
from worker.machine.life_signs import giving_life_signs
from worker.machine.parent_death import NODE_GONE, is_replica
from worker.machine.sd_notify import READY, STOPPING, notify
from worker.metrics_export import exporting
from worker.metrics_reading import read_worker
from worker.servicer import AskNodes, WorkerServicer

logger = logging.getLogger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Server:
    """One gRPC server over one engine."""

    def __init__(
        self,
        config: WorkerConfig,
        engine: Engine,
        auth: AuthInterceptor | None = None,
        ask_nodes: AskNodes | None = None,
    ) -> None:
        """Create the server.

        Args:
            config: Address, credentials and time limits.
            engine: Engine to start and to serve.
            auth: Credentials; None: plaintext without a token.
            ask_nodes: See WorkerServicer.
        """
        self._config = config
        self._auth = auth or AuthInterceptor()
        self._engine = engine
        self._gpus = GpuSampler()
        self._servicer = WorkerServicer(
            engine, int(config.frame_hold_ms * 1e6), config.coordinator_timeout_s, ask_nodes, self._gpus
        )
        self._health = health.aio.HealthServicer()
        self._stop = asyncio.Event()
        self._is_stopping = False
        self._drain_timeout_s = config.drain_timeout_s
        self._on_stop: Callable[[], None] = _ignore
        self.serving = asyncio.Event()
        """Set once runs are admitted."""

    async def run(self, on_stop: Callable[[], None]) -> None:
        """Handle signals and serve until one arrives or the engine dies; one call per process.

        Args:
            on_stop: Called when the drain is over, or the engine has died.

        Raises:
            BadInput: The address cannot be bound, or the engine refuses its configuration.
            EngineDead: The engine died.
        """
        self._on_stop = on_stop
        stop_at_signals(self.stop, lambda: self._is_stopping)
        if is_replica():
            asyncio.get_running_loop().add_signal_handler(NODE_GONE, self._stop_without_drain)
        with self._gpus:
            await self.serve()

    def stop(self) -> None:
        """Drain and stop; a second call stops without waiting for the drain."""
        self._is_stopping = True
        self._stop.set()

    def _stop_without_drain(self) -> None:
        self._drain_timeout_s = 0.0
        self.stop()

    async def serve(self) -> None:
        """Serve until `stop` is called or the engine dies; several servers may share a loop.

        Does not read the GPUs, unlike `run`.

        Raises:
            BadInput: The address cannot be bound, or the engine refuses its configuration.
            EngineDead: The engine died.
        """
        await self._set_health(NOT_SERVING)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._engine.close)
            stack.push_async_callback(self._servicer.close)
            # Listens before the engine loads, so that health checks are answered during the load.
            await stack.enter_async_context(listening(self._config, self._auth, self._servicer, self._health))
            stack.push_async_callback(self._announce_stop)
            await stack.enter_async_context(exporting(self._config, self._read_metrics))
            await stack.enter_async_context(giving_life_signs())
            if await self._load():
                await self._serve_runs()

    async def _load(self) -> bool:
        """Start the engine and admit runs; returns False if a signal arrived first."""
        logger.info("loading")
        starting = asyncio.ensure_future(self._engine.start())
        await wait_any(asyncio.wait({starting}), self._stop.wait())
        if not starting.done():
            starting.cancel()
            return False
        try:
            info = starting.result()
            engine_args = info.engine_args | self._config.reported
            self._servicer.admit_runs(dataclasses.replace(info, engine_args=engine_args))
        except ValueError as error:
            raise BadInput(error) from error
        return True

    async def _serve_runs(self) -> None:
        await self._set_health(SERVING)
        logger.info("serving")
        notify(READY)
        self.serving.set()
        await wait_any(self._stop.wait(), self._servicer.wait_engine_death())
        await self._set_health(NOT_SERVING)
        if self._servicer.engine_death is None:
            await self._drain()
        if self._servicer.engine_death is not None:
            raise EngineDead(self._servicer.engine_death)

    async def _drain(self) -> None:
        """Refuse new runs and let the current one finish, until a second `stop` or the drain timeout."""
        self._servicer.drain()
        notify(STOPPING)
        logger.info("draining")
        self._stop.clear()
        await wait_any(self._servicer.wait_idle(), self._stop.wait(), timeout_s=self._drain_timeout_s)

    def _read_metrics(self) -> Readings:
        return read_worker(self._servicer, self._auth.num_refused)

    async def _announce_stop(self) -> None:
        self._on_stop()
        notify(STOPPING)
        await self._set_health(NOT_SERVING)

    async def _set_health(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        for service in (health.OVERALL_HEALTH, SERVICE):
            await self._health.set(service, status)


def _ignore() -> None:
    pass


async def wait_any(*waits: Coroutine[None, None, object], timeout_s: float | None = None) -> None:
    """Wait until one of several waits returns, or for the timeout; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
