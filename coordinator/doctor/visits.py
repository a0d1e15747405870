"""Query workers for their state and their machine's; no run is started."""

import asyncio
import contextlib
import itertools
import socket
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2

from common.connect_errors import diagnose
from common.text import printable
from coordinator.transport.access import Access
from coordinator.transport.final_status import FinalStatus
from coordinator.transport.stream import STATUS_TIMEOUT_S
from coordinator.transport.worker_answers import (
    MAX_DETAIL_LEN,
    AnswerError,
    ask_health,
    ask_host,
    ask_info,
    ask_load,
    details_of,
)
from coordinator.transport.worker_link import replica_addresses
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS

VISIT_TIMEOUT_S = 20.0
"""For programs that have no flag for it."""
NUM_ROUND_TRIPS = 5
ROUND_TRIPS_TIMEOUT_S = 2.0
# No protocol version has this number: a worker that accepts the run token then refuses the version.
NO_VERSION = 0
CHECK_PORT = "check which process listens on that port"


class Trouble(NamedTuple):
    """Why a worker does not answer, and what to do."""

    seen: str
    advice: str


class Clock(NamedTuple):
    """A worker's system clock compared with this machine's."""

    offset_ns: int
    """Worker's clock minus ours."""
    error_ns: int
    """Bound of the error of the offset."""


@dataclass(slots=True)
class Visit:
    """Answers of the worker at one address; fields without an answer stay empty."""

    address: str
    """host:port."""
    trouble: Trouble | None = None
    health: health_pb2.HealthCheckResponse.ServingStatus = health_pb2.HealthCheckResponse.UNKNOWN
    """Of grpc.health.v1."""
    info: pb.WorkerInfo = field(default_factory=pb.WorkerInfo)
    round_trips_ns: list[int] = field(default_factory=list)
    load: pb.WorkerLoad | None = None
    host: pb.HostInfo | None = None
    clock: Clock | None = None
    token_refusal: str = ""
    """Why a run would be refused for its run token; empty if it would not."""

    @property
    def machines(self) -> dict[str, pb.HostInfo]:
        """The worker's machine by its address, then those of its engine's other nodes, as they joined."""
        if self.host is None:
            return {}
        others = enumerate(self.host.engine_hosts, 1)
        return {
            self.address: self.host,
            **{f"{self.address} node rank {rank}": host for rank, host in others},
        }


async def visit_all(addresses: tuple[str, ...], access: Access, timeout_s: float) -> list[Visit]:
    """Visit every address, and for a node every replica that the node has not given up.

    Args:
        addresses: host:port each.
        access: Credentials for the connections.
        timeout_s: Time limit of one address, in seconds.

    Returns:
        Visits in the order of the addresses; a node, which has `info.replicas`, precedes its replicas.
    """
    heads = await asyncio.gather(*(_visit(address, access, timeout_s) for address in addresses))
    names = [_replicas_of(head) for head in heads]
    replicas = iter(
        await asyncio.gather(*(_visit(name, access, timeout_s) for name in itertools.chain(*names)))
    )
    visits = [
        one
        for head, own in zip(heads, names, strict=True)
        for one in (head, *itertools.islice(replicas, len(own)))
    ]
    # One after the other: parallel calls would delay each other on this machine.
    for found in visits:
        if found.trouble is None:
            found.round_trips_ns = await _round_trips_ns(found.address, access)
    return visits


def _replicas_of(head: Visit) -> list[str]:
    """List a node's replicas; the port of a replica that was given up may belong to another process."""
    addresses = replica_addresses(head.address, head.info)
    return [
        address
        for address, replica in zip(addresses, head.info.replicas, strict=True)
        if replica.state != pb.WORKER_STATE_FAILED
    ]


async def _visit(address: str, access: Access, timeout_s: float) -> Visit:
    """Make all calls to one worker within timeout_s; finding out why it does not answer takes more time."""
    found = Visit(address)
    try:
        async with asyncio.timeout(timeout_s):
            found.trouble = await _check_port(address)
            if found.trouble is None:
                await _query(found, access)
    except TimeoutError:
        found.trouble = Trouble(
            f"does not answer all calls within {timeout_s:g} s (--timeout-s)",
            "check for a stopped or overloaded process, and for a firewall that drops packets",
        )
    except grpc.aio.AioRpcError as error:
        found.trouble = await _explain(address, access, error)
    except AnswerError as error:
        # What was read before the answer that is not usable is dropped with it.
        found = Visit(address, Trouble(str(error), CHECK_PORT))
    return found


async def _check_port(address: str) -> Trouble | None:
    """Open a TCP connection, to tell a wrong name, a closed port and a silent machine apart."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except socket.gaierror as error:
        return Trouble(
            f"no such name: {error.strerror}", "correct --workers, or DNS or /etc/hosts on this machine"
        )
    except ConnectionRefusedError:
        return Trouble(
            "connection refused", "start the worker on that machine, or correct the port in --workers"
        )
    except OSError as error:
        return Trouble(f"no connection: {error.strerror}", "check the network and the firewalls on the path")
    writer.transport.abort()
    return None


async def _explain(address: str, access: Access, error: grpc.aio.AioRpcError) -> Trouble:
    """Explain why gRPC fails on an open port."""
    why = await diagnose(address, access.client_tls)
    if why is not None:
        return Trouble(why, "use the TLS flags that fit this worker, or correct its certificate")
    return Trouble(f"the port is open, but {error.code().name}: {details_of(error)}", CHECK_PORT)


async def _query(found: Visit, access: Access) -> None:
    """Make all calls.

    Raises:
        AnswerError: An answer is not usable.
        grpc.aio.AioRpcError: A call failed that every worker supports.
    """
    async with access.channel(found.address, CHANNEL_OPTIONS) as channel:
        found.health = await ask_health(channel)
        found.info = await ask_info(channel, found.address)
        if found.info.replicas:
            return
        found.load = await ask_load(channel)
        sent_ns = time.monotonic_ns()
        found.host = await _query_host(channel)
        if found.host is not None:
            found.clock = clock_of(found.host, sent_ns, time.monotonic_ns(), time.time_ns())
        found.token_refusal = await _check_token(rpc.WorkerStub(channel), access)


async def _round_trips_ns(address: str, access: Access) -> list[int]:
    """Measure several round trips; fewer, or none, if they are slow."""
    times_ns: list[int] = []
    with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
        async with (
            asyncio.timeout(ROUND_TRIPS_TIMEOUT_S),
            access.channel(address, CHANNEL_OPTIONS) as channel,
        ):
            stub = rpc.WorkerStub(channel)
            # The first call opens the connection.
            await stub.GetInfo(pb.GetInfoRequest())
            for _ in range(NUM_ROUND_TRIPS):
                sent_ns = time.monotonic_ns()
                await stub.GetInfo(pb.GetInfoRequest())
                times_ns.append(time.monotonic_ns() - sent_ns)
    return times_ns


async def _query_host(channel: grpc.aio.Channel) -> pb.HostInfo | None:
    """Query the machine; None if the worker is too old to support the call."""
    try:
        return await ask_host(channel)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        return None


async def _check_token(stub: "rpc.WorkerAsyncStub", access: Access) -> str:
    """Open a stream as a run would, with a version that no worker supports; returns why the token fails."""
    opening = pb.ToWorker(open=pb.Open(protocol_version=NO_VERSION, run_id="doctor"))
    call = stub.Generate(iter([opening]), metadata=access.metadata)
    final_status = FinalStatus()
    call.add_done_callback(final_status.note)
    try:
        async for _ in call:
            break
    except grpc.aio.AioRpcError as error:
        # A worker that refuses before it has read the message also makes the write fail.
        known = await final_status.wait(call, STATUS_TIMEOUT_S)
        code, details = known or (error.code(), error.details())
        if code is grpc.StatusCode.UNAUTHENTICATED:
            return printable(details or "refused", MAX_DETAIL_LEN)
        if code is not grpc.StatusCode.FAILED_PRECONDITION:
            # Any other status says nothing about the token.
            raise
    return ""


def clock_of(host: pb.HostInfo, sent_ns: int, got_ns: int, wall_ns: int) -> Clock:
    """Compare clocks. The worker reads its clock right before it answers.

    Args:
        host: The worker's answer.
        sent_ns: Our monotonic clock at the call.
        got_ns: Our monotonic clock at the answer.
        wall_ns: Our system clock at got_ns.
    """
    way_ns = max(got_ns - sent_ns - (host.answered_ns - host.received_ns), 0)
    return Clock(host.wall_ns - (wall_ns - way_ns // 2), (way_ns + 1) // 2)
