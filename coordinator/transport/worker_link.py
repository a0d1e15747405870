"""The coordinator's end of one worker: its address over the whole run, and the streams to it."""

from enum import Enum
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.transport.access import Access
from coordinator.transport.stream import CALL_TIMEOUT_S, Stream, StreamCounts
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS, SERVICE


class Readiness(Enum):
    """Whether a worker can take a run."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    """Something answers at the address, and does not serve yet."""
    UNREACHABLE = "unreachable"
    """Nothing answers."""


class Probe(NamedTuple):
    """What one look at a worker found."""

    readiness: Readiness
    detail: str
    """For the user: health's own status, gRPC's error, and the replicas of a node that do not serve."""


class WorkerLink:
    """One worker; every method runs on the event loop's thread."""

    def __init__(self, index: int, address: str, access: Access) -> None:
        """Create a link that is not connected yet.

        Args:
            index: Position in the fleet.
            address: host:port.
            access: Credentials for the connection and the run.
        """
        self._access = access
        self.index = index
        self.address = address
        self.info = pb.WorkerInfo()
        """The latest GetInfo of the address."""
        self.stream_counts: list[StreamCounts] = []
        """One per stream that the run opened to this address, oldest first."""
        self._stream: Stream | None = None
        self._live = False
        self._channel = self._connect()

    @property
    def live(self) -> bool:
        """Whether the latest stream carries requests."""
        return self._live

    @property
    def stream(self) -> Stream:
        """The latest stream; there is one once the run is open."""
        assert self._stream is not None, "no stream was opened"
        return self._stream

    @property
    def replica_addresses(self) -> list[str]:
        """The addresses of a node's replicas; a worker's own address if it is no node."""
        return replica_addresses(self.address, self.info) or [self.address]

    async def probe(self) -> Probe:
        """Ask once whether the worker is ready, and fetch its info."""
        health = health_pb2_grpc.HealthStub(self._channel)
        try:
            answer = await health.Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=CALL_TIMEOUT_S
            )
            info = await rpc.WorkerStub(self._channel).GetInfo(pb.GetInfoRequest(), timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            words = (error.details() or "").rpartition(": ")[2]
            return Probe(Readiness.UNREACHABLE, f"unreachable ({error.code().name}: {words})")
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        # A worker that is still loading cannot fill in its info.
        if serving or info.replicas:
            self.info = info
        status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        if serving:
            return Probe(Readiness.SERVING, status)
        return Probe(Readiness.NOT_SERVING, status + _describe_unready_replicas(info))

    async def open(self, opening: pb.Open) -> pb.Opened:
        """Begin the run on this worker, on a new stream.

        Raises:
            WorkerLost: The worker refuses or does not answer in time.
        """
        stream = Stream(self.address, self._channel, self._access.metadata)
        try:
            opened = await stream.open(opening)
        except BaseException:
            stream.cancel()
            raise
        self._stream = stream
        self.stream_counts.append(stream.counts)
        return opened

    def begin(self) -> None:
        """Note that the open stream carries requests from now on."""
        self._live = True

    def lose(self) -> None:
        """Note that the stream carries no requests any more."""
        self._live = False

    async def reconnect(self) -> None:
        """End the stream and open a new channel: a cut connection would wait for TCP to retransmit."""
        await self.close()
        self._channel = self._connect()

    async def close(self) -> None:
        """End the stream and the channel; the worker then empties its engine."""
        self._live = False
        if self._stream is not None:
            self._stream.cancel()
        await self._channel.close(grace=None)

    def _connect(self) -> grpc.aio.Channel:
        return self._access.channel(self.address, CHANNEL_OPTIONS)


def replica_addresses(address: str, info: pb.WorkerInfo) -> list[str]:
    """List the addresses of the replicas of the node at an address; empty for a worker."""
    host = address.rpartition(":")[0]
    return [f"{host}:{replica.port}" for replica in info.replicas]


def _describe_unready_replicas(info: pb.WorkerInfo) -> str:
    """List the replicas of a node that do not serve, with the reason; empty for a worker."""
    words = [
        f"replica {index} {pb.WorkerState.Name(replica.state).removeprefix('WORKER_STATE_')}"
        + (f": {replica.reason}" if replica.reason else "")
        for index, replica in enumerate(info.replicas)
        if replica.state != pb.WORKER_STATE_READY
    ]
    return f" ({'; '.join(words)})" if words else ""
