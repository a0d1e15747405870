"""A node with several replicas, each with its own process and port; the node's port describes them.

No token passes through the node: a coordinator reads the replicas' ports from GetInfo and opens a stream to
each replica.
"""

import asyncio
import logging
import os
import signal
import socket
import uuid
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2

from common.metrics import Readings
from common.signals import stop_at_signals
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import PROTOCOL_VERSION, SERVICE
from worker.auth import AuthInterceptor
from worker.config import BadInput, WorkerConfig
from worker.engine_protocol import EngineDead
from worker.listener import listening
from worker.machine.gpus import visible_devices
from worker.machine.host_info import HostInspector
from worker.machine.sd_notify import READY, STOPPING, notify
from worker.metrics_export import exporting
from worker.node.placement import Share, place, read_size, split
from worker.node.replica import Replica
from worker.worker_metrics import join, of_replica

logger = logging.getLogger(__name__)

# Time that vLLM's processes may take to exit after --drain-timeout-s.
STOP_TIMEOUT_S = 30.0
# A killed process that does not end is in the kernel, e.g. while that frees the memory of an accelerator.
KILL_TIMEOUT_S = 10.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Context = grpc.aio.ServicerContext[pb.ToWorker, pb.FromWorker]


def divide(config: WorkerConfig, engine_argv: list[str]) -> list[Share]:
    """Divide the machine's accelerators and cores among the replicas; scripted engines get only cores.

    Raises:
        ValueError: The machine is too small, or its accelerators cannot be listed.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not config.engine.has_model:
        return [Share((), part) for part in split(cores, config.replicas)]
    return place(config.replicas, read_size(engine_argv), visible_devices(), cores)


class Node:
    """The replicas of one host and the gRPC service that describes them."""

    def __init__(
        self, config: WorkerConfig, auth: AuthInterceptor, shares: list[Share], argv: list[str]
    ) -> None:
        """Create the node without starting a process.

        Args:
            config: The node's flags.
            auth: Authentication of the node's port.
            shares: Accelerators and cores of each replica.
            argv: The node's command line; each replica's command line starts with it.
        """
        self._config = config
        self._auth = auth
        self._changed = asyncio.Event()
        self._replicas = [
            Replica(index, argv, config.port + 1 + index, share, self._changed.set)
            for index, share in enumerate(shares)
        ]
        self._health = health.aio.HealthServicer()
        self._instance_id = uuid.uuid4().hex
        self._stopping = asyncio.Event()

    async def run(self, on_stop: Callable[[], None]) -> None:
        """Serve until a signal arrives, or until no replica is restarted any more.

        Args:
            on_stop: Called when all replicas have ended, or have been killed.

        Raises:
            BadInput: The port is in use, or every replica refuses its flags.
            EngineDead: Every replica has FAILED.
        """
        stop_at_signals(self._stop, self._stopping.is_set)
        await self._set_health()
        async with (
            listening(self._config, self._auth, _NodeServicer(self), self._health),
            exporting(self._config, self._read_metrics),
        ):
            publishing = asyncio.ensure_future(self._publish_changes())
            try:
                await self._keep_replicas()
            finally:
                on_stop()
                publishing.cancel()
        if not self._stopping.is_set():
            self._raise_reason()

    def describe(self) -> pb.WorkerInfo:
        """Describe the node and its replicas for GetInfo."""
        return pb.WorkerInfo(
            protocol_version=PROTOCOL_VERSION,
            instance_id=self._instance_id,
            state=self.state,
            hostname=socket.gethostname(),
            pid=os.getpid(),
            coordinator_timeout_s=self._config.coordinator_timeout_s,
            replicas=[replica.describe() for replica in self._replicas],
        )

    @property
    def state(self) -> "pb.WorkerState":
        """READY: all replicas are READY; DEGRADED: some are; LOADING: none is; FAILED: all are FAILED."""
        if self._stopping.is_set():
            return pb.WORKER_STATE_DRAINING
        states = [replica.state for replica in self._replicas]
        if pb.WORKER_STATE_READY in states:
            same = len(set(states)) == 1
            return pb.WORKER_STATE_READY if same else pb.WORKER_STATE_DEGRADED
        given_up = all(state == pb.WORKER_STATE_FAILED for state in states)
        return pb.WORKER_STATE_FAILED if given_up else pb.WORKER_STATE_LOADING

    def _read_metrics(self) -> Readings:
        """Join the replicas' metrics; a replica without a process has only its state and restarts."""
        return join(of_replica(replica.index, replica.read_metrics()) for replica in self._replicas)

    def _stop(self) -> None:
        """Drain every replica; a second call stops them without waiting."""
        again = self._stopping.is_set()
        logger.info("stopping" if again else "draining")
        if not again:
            notify(STOPPING)
        for replica in self._replicas:
            replica.stop(signal.SIGTERM)
        self._stopping.set()
        self._changed.set()

    async def _keep_replicas(self) -> None:
        """Run all replicas until they have ended; kills them if they do not end in time after a signal."""
        running = [asyncio.ensure_future(replica.run()) for replica in self._replicas]
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait((asyncio.gather(*running), stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        _, late = await asyncio.wait(running, timeout=self._config.drain_timeout_s + STOP_TIMEOUT_S)
        for replica in self._replicas if late else []:
            replica.stop(signal.SIGKILL)
        _, held = await asyncio.wait(running, timeout=KILL_TIMEOUT_S)
        if held:
            logger.error("%d killed replicas have not ended after %g s", len(held), KILL_TIMEOUT_S)
        for run in set(running) - held:
            run.result()

    def _raise_reason(self) -> None:
        refusals = [replica.refusal for replica in self._replicas]
        if refusals[0] is not None and None not in refusals:
            raise BadInput(refusals[0])
        raise EngineDead(
            "; ".join(f"replica {replica.index}: {replica.reason}" for replica in self._replicas)
        )

    async def _publish_changes(self) -> None:
        """Update the health service after each change; notify the process that started the node once."""
        is_notified = False
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._set_health()
            if not is_notified and self.state == pb.WORKER_STATE_READY:
                notify(READY)
                is_notified = True

    async def _set_health(self) -> None:
        """Set the node SERVING while any replica serves, and the Worker service while all do."""
        serving = [replica.state == pb.WORKER_STATE_READY for replica in self._replicas]
        services = {health.OVERALL_HEALTH: any(serving), SERVICE: all(serving)}
        services |= {f"{SERVICE}.replica.{index}": one for index, one in enumerate(serving)}
        for service, serves in services.items():
            up = serves and not self._stopping.is_set()
            await self._health.set(service, SERVING if up else NOT_SERVING)


class _NodeServicer(rpc.WorkerServicer):
    """The Worker service of a node; it refuses runs, which open a stream to each replica."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._host = HostInspector()

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.WorkerInfo:
        """Describe the node and its replicas."""
        return self._node.describe()

    async def GetHost(self, request: pb.GetHostRequest, context: Context) -> pb.HostInfo:
        """Describe the machine."""
        return await self._host.read()

    async def GetLoad(self, request: pb.GetLoadRequest, context: Context) -> pb.WorkerLoad:
        """Refuse the call: replicas serve it, not the node."""
        await self._refuse(context)
        return pb.WorkerLoad()

    async def Generate(  # type: ignore[override]  # grpc.aio lets a method write
        self, request_iterator: object, context: Context
    ) -> None:
        """Refuse the call: replicas serve it, not the node."""
        await self._refuse(context)

    async def _refuse(self, context: Context) -> None:
        ports = ", ".join(str(replica.port) for replica in self._node.describe().replicas)
        await context.abort(
            grpc.StatusCode.FAILED_PRECONDITION, f"this is a node: its replicas listen on ports {ports}"
        )
