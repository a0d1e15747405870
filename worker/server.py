"""The daemon's life: listen, load, serve, drain, stop; health says which of these it is in."""

import asyncio
import dataclasses
import logging
import signal

from grpc_health.v1 import health, health_pb2

from protos import worker_pb2 as pb
from protos.columns import SERVICE
from worker.auth import Door
from worker.config import BadInput, WorkerConfig
from worker.engine_protocol import Engine, EngineDead
from worker.listen import listen
from worker.machine.sd_notify import NODE_GONE, READY, STOPPING, is_of_node, tell
from worker.servicer import WorkerServicer

logger = logging.getLogger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Server:
    """One gRPC server over one engine."""

    def __init__(self, config: WorkerConfig, engine: Engine, door: Door | None = None) -> None:
        self._config = config
        self._door = door or Door()
        self._engine = engine
        self._servicer = WorkerServicer(engine, int(config.frame_hold_ms * 1e6), config.coordinator_timeout_s)
        self._health = health.aio.HealthServicer()
        self._stop = asyncio.Event()
        self._drain_timeout_s = config.drain_timeout_s
        self.serving = asyncio.Event()
        """Set once runs are admitted."""

    async def run(self) -> None:
        """Serve until a signal or the engine's death; the process is this server's alone.

        Raises:
            BadInput: The port cannot be had, or the engine cannot serve its configuration.
            EngineDead: The engine died.
        """
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.stop)
        if is_of_node():
            loop.add_signal_handler(NODE_GONE, self._end)
        await self.serve()

    def stop(self) -> None:
        """Drain, then end; the second time, end."""
        self._stop.set()

    def _end(self) -> None:
        """End without a drain."""
        self._drain_timeout_s = 0.0
        self.stop()

    async def serve(self) -> None:
        """Serve until `stop` or the engine's death; several servers may share a loop.

        Raises:
            BadInput: The port cannot be had, or the engine cannot serve its configuration.
            EngineDead: The engine died.
        """
        await self._set_health(NOT_SERVING)
        # Before the engine loads, so that health answers while it does.
        server = await listen(self._config, self._door, self._servicer, self._health)
        try:
            if await self._load():
                await self._admit_runs()
        finally:
            tell(STOPPING)
            await self._set_health(NOT_SERVING)
            await server.stop(grace=1.0)
            await self._engine.close()

    async def _load(self) -> bool:
        """Start the engine; False when a signal came first."""
        logger.info("loading")
        starting = asyncio.ensure_future(self._engine.start())
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            return False
        try:
            info = starting.result()
            self._servicer.describe(
                dataclasses.replace(info, engine_args=info.engine_args | self._config.origin)
            )
        except ValueError as error:
            raise BadInput(str(error)) from error
        return True

    async def _admit_runs(self) -> None:
        self._servicer.enter(pb.WORKER_STATE_READY)
        self._servicer.watch()
        await self._set_health(SERVING)
        logger.info("serving")
        tell(READY)
        self.serving.set()
        stopping = asyncio.ensure_future(self._stop.wait())
        dying = asyncio.ensure_future(self._servicer.engine_dead.wait())
        await asyncio.wait((stopping, dying), return_when=asyncio.FIRST_COMPLETED)
        await self._set_health(NOT_SERVING)
        if not self._servicer.engine_dead.is_set():
            await self._drain()
        if self._servicer.engine_dead.is_set():
            raise EngineDead(self._servicer.death)

    async def _drain(self) -> None:
        """Take no new run; let the current one go on, until it ends or a second signal or the deadline."""
        self._servicer.enter(pb.WORKER_STATE_DRAINING)
        tell(STOPPING)
        logger.info("draining")
        self._stop.clear()
        idle = asyncio.ensure_future(self._servicer.wait_idle())
        again = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait(
            (idle, again),
            timeout=self._drain_timeout_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        idle.cancel()
        again.cancel()

    async def _set_health(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        for service in (health.OVERALL_HEALTH, SERVICE):
            await self._health.set(service, status)
