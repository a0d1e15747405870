"""The coordinator's connection to one worker for a whole run: channel, probes and streams."""

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2

from common.text import printable
from coordinator.transport.access import Access
from coordinator.transport.stream import CALL_TIMEOUT_S, Stream, StreamCounts, WorkerLost
from coordinator.transport.worker_answers import (
    MAX_DETAIL_LEN,
    AnswerError,
    ask_health,
    ask_host,
    ask_info,
    check_serving,
    details_of,
)
from coordinator.transport.worker_host import WorkerHost, read_host
from protos import worker_pb2 as pb
from protos.columns import CHANNEL_OPTIONS

Check = Callable[[str, pb.Opened], None]
"""Checks the answer to `open` of the worker at an address."""


class Readiness(Enum):
    """Whether a worker can take a run."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    """The address answers but does not serve yet."""
    UNREACHABLE = "unreachable"
    """The address does not answer."""
    UNFIT = "unfit"
    """The address answers what no worker of this protocol answers."""


class Probe(NamedTuple):
    """Result of probing a worker once."""

    readiness: Readiness
    detail: str
    """One printable line: health status or error, and the replicas of a node that do not serve."""


class WorkerLink:
    """Connection to one worker; every method runs on the event loop's thread."""

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
        """The worker as it described itself last: in an answer to GetInfo, or when it opened a stream."""
        self.stream_counts: list[StreamCounts] = []
        """One per stream opened to this address, oldest first."""
        self.hosts: list[WorkerHost] = []
        """The worker's machine, one per stream."""
        self.probed = Probe(Readiness.UNREACHABLE, "not probed yet")
        """The latest result of `probe`."""
        self._stream: Stream | None = None
        self._live = False
        self._channel = self._connect()

    @property
    def live(self) -> bool:
        """Whether the latest stream carries requests."""
        return self._live

    @property
    def stream(self) -> Stream:
        """The latest stream; available once the run is open."""
        assert self._stream is not None, "no stream was opened"
        return self._stream

    @property
    def infos(self) -> list[pb.WorkerInfo]:
        """The worker on each stream, oldest first; before the first stream its answer to GetInfo."""
        return [counts.info for counts in self.stream_counts] or [self.info]

    @property
    def replica_addresses(self) -> list[str]:
        """Addresses of a node's replicas; for a worker its own address."""
        return replica_addresses(self.address, self.info) or [self.address]

    async def probe(self) -> Probe:
        """Query the worker's health and info once."""
        self.probed = await self._probe()
        return self.probed

    async def _probe(self) -> Probe:
        try:
            health = await ask_health(self._channel, CALL_TIMEOUT_S)
            info = await ask_info(self._channel, self.address, CALL_TIMEOUT_S)
            serving = health == health_pb2.HealthCheckResponse.SERVING
            if serving:
                check_serving(info)
        except grpc.aio.AioRpcError as error:
            return Probe(Readiness.UNREACHABLE, f"unreachable ({error.code().name}: {details_of(error)})")
        except AnswerError as error:
            return Probe(Readiness.UNFIT, str(error))
        # The info of a worker that is loading is incomplete.
        if serving or info.replicas:
            self.info = info
        status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(health)
        if serving:
            return Probe(Readiness.SERVING, status)
        detail = printable(status + _describe_unready_replicas(info), MAX_DETAIL_LEN)
        return Probe(Readiness.NOT_SERVING, detail)

    async def ask_host(self, timeout_s: float) -> pb.HostInfo:
        """Ask the worker for its machine.

        Raises:
            WorkerLost: It does not answer as it should.
        """
        try:
            return await ask_host(self._channel, timeout_s)
        except AnswerError as error:
            raise WorkerLost(self.address, f"GetHost: {error}") from error
        except grpc.aio.AioRpcError as error:
            raise WorkerLost(self.address, f"GetHost: {error.code().name}: {details_of(error)}") from error

    async def open(self, opening: pb.Open, check: Check) -> None:
        """Begin the run on this worker, on a new stream.

        Args:
            opening: First message of the stream.
            check: Raises if the worker's answer is not acceptable; the stream is then cancelled.

        Raises:
            WorkerRefused: The worker refuses.
            WorkerLost: The stream breaks, or the worker does not answer in time.
        """
        # Before the stream, which must not wait for its first ping.
        host = await read_host(self._channel)
        stream = Stream(self.address, self._channel, self._access.metadata)
        try:
            check(self.address, await stream.open(opening))
        except BaseException:
            stream.cancel()
            raise
        self._stream = stream
        # Another process may have taken the address since the probe.
        self.info = stream.counts.info
        self.stream_counts.append(stream.counts)
        self.hosts.append(host)

    def begin(self) -> None:
        """Mark the open stream as carrying requests."""
        self._live = True

    def lose(self) -> None:
        """Mark the stream as no longer carrying requests."""
        self._live = False

    async def reconnect(self) -> None:
        """End the stream and open a new channel: a broken connection would wait for TCP retransmissions."""
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
    """Return the addresses of the replicas of the node at an address; empty for a worker."""
    host = address.rpartition(":")[0]
    return [f"{host}:{replica.port}" for replica in info.replicas]


def _describe_unready_replicas(info: pb.WorkerInfo) -> str:
    """Describe the replicas of a node that do not serve; empty for a worker."""
    unready = [
        f"replica {index} {pb.WorkerState.Name(replica.state).removeprefix('WORKER_STATE_')}"
        + (f": {replica.reason}" if replica.reason else "")
        for index, replica in enumerate(info.replicas)
        if replica.state != pb.WORKER_STATE_READY
    ]
    return f" ({'; '.join(unready)})" if unready else ""
