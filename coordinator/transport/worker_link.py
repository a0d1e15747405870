"""The coordinator's end of one worker: its address over the whole run, and the streams to it."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.scheduling.routing import NO_LIMIT, ceiling
from coordinator.scheduling.throughput import Pace, Reading, measure, prefetch
from coordinator.transport.access import Access
from coordinator.transport.stream import CALL_TIMEOUT_S, Stream
from coordinator.transport.stream_counts import StreamCounts
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS, SERVICE

UNREACHABLE = "unreachable"


class WorkerLink:
    """One worker; every method runs on the dispatcher's event loop."""

    def __init__(self, index: int, address: str, access: Access) -> None:
        """Create a link that is not connected yet.

        Args:
            index: Position in the fleet.
            address: host:port.
            access: How to reach it.
        """
        self._access = access
        self.index = index
        self.address = address
        self.info = pb.WorkerInfo()
        """What answered last at the address."""
        self.waiting_prefill_tokens = 0
        self.last_prompt_ns = 0
        self.streams: list[StreamCounts] = []
        """All that the run had to this address, oldest first."""
        self._stream: Stream | None = None
        self.live = False
        """Whether the latest carries requests."""
        self.moved: set[int] = set()
        """Names of requests that were taken from the present stream; their late tokens are dropped."""
        self.num_dropped_tokens = 0
        self.pace = Pace()
        """Measured on the present stream."""
        self.speed = 1.0
        """Server: tokens/s of each request, relative to the fleet."""
        self.allowance = NO_LIMIT
        """Offline: new requests it may still take until the next beat; see routing.allowances."""
        self._num_finished = 0
        self._most_finished = 0
        self._num_delays = 0
        self._reading: Reading | None = None
        self._channel = self._connect()

    @property
    def stream(self) -> Stream:
        """The latest stream; there is one once the run is open."""
        assert self._stream is not None, "no stream was opened"
        return self._stream

    @property
    def replica_addresses(self) -> list[str]:
        """Where a node's replicas answer; a worker's own address where there are none."""
        return replica_addresses(self.address, self.info) or [self.address]

    @property
    def outstanding(self) -> int:
        """Requests sent and not finished."""
        return self.stream.outstanding if self.live else 0

    @property
    def relative_outstanding(self) -> float:
        """What dispatch needs to know."""
        return self.stream.outstanding / self.speed

    @property
    def window(self) -> int:
        """Most Offline requests the worker may hold: its running slots, and what follows them."""
        slots = self.info.max_num_seqs
        return slots + prefetch(self.pace, slots)

    @property
    def ceiling(self) -> int:
        """Most Offline requests it may hold now: its window, shrunk when the rest is divided."""
        return ceiling(self.outstanding, self.window, self.allowance)

    def end(self, num_finished: int) -> None:
        """Count requests that one frame ended."""
        self.stream.outstanding -= num_finished
        self._num_finished += num_finished
        self._most_finished = max(self._most_finished, num_finished)

    def measure(self, now_ns: int) -> None:
        """Bring the pace up to date; called each BEAT_INTERVAL_S."""
        counts = self.stream.counts
        delays_ns = counts.report_delays_ns[self._num_delays :]
        way_ns = max(delays_ns) + counts.clock_offset_ns if delays_ns else 0
        reading = Reading(
            at_ns=now_ns,
            num_tokens=counts.num_tokens,
            num_finished=self._num_finished,
            outstanding=self.outstanding,
            most_finished=self._most_finished,
            refill_s=(max(way_ns, 0) + counts.round_trip_ns) / 1e9,
        )
        if self._reading is not None:
            self.pace = measure(self.pace, self._reading, reading, self.info.max_num_seqs)
        self._reading, self._most_finished = reading, 0
        self._num_delays = len(counts.report_delays_ns)

    async def probe(self) -> str:
        """Ask once whether the worker is ready, and fetch its info.

        Returns:
            "SERVING", or what it is instead; that begins with UNREACHABLE where nothing answers.
        """
        health = health_pb2_grpc.HealthStub(self._channel)
        try:
            answer = await health.Check(
                health_pb2.HealthCheckRequest(service=SERVICE), timeout=CALL_TIMEOUT_S
            )
            status: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            info = await rpc.WorkerStub(self._channel).GetInfo(pb.GetInfoRequest(), timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return f"{UNREACHABLE} ({error.code().name}: {(error.details() or '').rpartition(': ')[2]})"
        # A worker that loads does not know yet what it is.
        if status == "SERVING" or info.replicas:
            self.info = info
        return status if status == "SERVING" else status + _missing_of(info)

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
        self._begin(stream)
        return opened

    async def reconnect(self) -> None:
        """End the stream, and connect anew: what was cut would wait for TCP's long retransmissions."""
        self.live = False
        self.stream.cancel()
        await self._channel.close(grace=None)
        self._channel = self._connect()

    async def close(self) -> None:
        """End the stream and the channel; the worker then empties its engine."""
        self.live = False
        if self._stream is not None:
            self._stream.cancel()
        await self._channel.close(grace=None)

    def _begin(self, stream: Stream) -> None:
        """Forget the stream before: what answers now may be another process, of another speed."""
        self._stream = stream
        self.streams.append(stream.counts)
        self.moved.clear()
        self.waiting_prefill_tokens = 0
        self.pace, self.speed, self.allowance = Pace(), 1.0, NO_LIMIT
        self._num_finished = self._most_finished = self._num_delays = 0
        self._reading = None

    def _connect(self) -> grpc.aio.Channel:
        return self._access.channel(self.address, CHANNEL_OPTIONS)


def replica_addresses(address: str, info: pb.WorkerInfo) -> list[str]:
    """List where the replicas of the node at an address answer; none of a worker."""
    host = address.rpartition(":")[0]
    return [f"{host}:{replica.port}" for replica in info.replicas]


def _missing_of(info: pb.WorkerInfo) -> str:
    """Say which replicas of a node do not serve, and why; nothing of a worker."""
    words = [
        f"replica {index} {pb.WorkerState.Name(replica.state).removeprefix('WORKER_STATE_')}"
        + (f": {replica.reason}" if replica.reason else "")
        for index, replica in enumerate(info.replicas)
        if replica.state != pb.WORKER_STATE_READY
    ]
    return f" ({'; '.join(words)})" if words else ""
