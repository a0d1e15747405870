"""A server that says of itself what it is told to, as a worker, a node or a stranger would."""

import contextlib
import time
from collections.abc import Iterator
from concurrent import futures
from typing import NoReturn

import grpc
from grpc import ServicerContext
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import SERVICE

SECOND_NS = 1_000_000_000


class Teller(rpc.WorkerServicer):
    """Answers with what it was given."""

    def __init__(self, info: pb.WorkerInfo, host: pb.HostInfo | None = None, ahead_s: float = 0.0) -> None:
        """Take what to say.

        Args:
            info: Answer to GetInfo.
            host: Answer to GetHost but for the clocks; None: that it knows no such call.
            ahead_s: How far its system clock is ahead of ours.
        """
        self._info = info
        self._host = host
        self._ahead_ns = int(ahead_s * SECOND_NS)

    def GetInfo(self, request: pb.GetInfoRequest, context: ServicerContext) -> pb.WorkerInfo:  # noqa: N802
        """Say what it is."""
        return self._info

    def GetLoad(self, request: pb.GetLoadRequest, context: ServicerContext) -> pb.WorkerLoad:  # noqa: N802
        """Say that there is nothing to do."""
        return pb.WorkerLoad()

    def GetHost(self, request: pb.GetHostRequest, context: ServicerContext) -> pb.HostInfo:  # noqa: N802
        """Say what machine it runs on, and what time it is there."""
        if self._host is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        answer = pb.HostInfo()
        answer.CopyFrom(self._host)
        answer.received_ns = answer.answered_ns = time.monotonic_ns()
        answer.wall_ns = time.time_ns() + self._ahead_ns
        return answer

    def Generate(self, request_iterator: object, context: ServicerContext) -> NoReturn:  # noqa: N802
        """Refuse every run."""
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "protocol version 0, this worker speaks 4")
        raise AssertionError


@contextlib.contextmanager
def telling(teller: Teller) -> Iterator[str]:
    """Serve it for the length of a block; gives its address."""
    serving = health.HealthServicer()
    serving.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    health_pb2_grpc.add_HealthServicer_to_server(serving, server)
    rpc.add_WorkerServicer_to_server(teller, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield address
    finally:
        server.stop(grace=0).wait(timeout=60)


def told_by(address: str) -> tuple[pb.WorkerInfo, pb.HostInfo]:
    """Ask a real worker what it says of itself."""
    with grpc.insecure_channel(address) as channel:
        stub = rpc.WorkerStub(channel)
        return stub.GetInfo(pb.GetInfoRequest(), timeout=60), stub.GetHost(pb.GetHostRequest(), timeout=60)
