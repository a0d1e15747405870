"""What a worker and its machine say of themselves, gathered over sockets; nothing of it begins a run."""

import asyncio
import contextlib
import itertools
import socket
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.transport.access import Access
from coordinator.transport.connect_errors import diagnose
from coordinator.transport.worker_link import replica_addresses
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS, SERVICE

NUM_ROUND_TRIPS = 5
ROUND_TRIPS_TIMEOUT_S = 2.0
# No protocol has this version: a worker that knows the run token refuses it before it begins anything.
NO_VERSION = 0


class Trouble(NamedTuple):
    """Why a worker says nothing."""

    seen: str
    advice: str


class Clock(NamedTuple):
    """A system clock against ours."""

    offset_ns: int
    """How far it is ahead."""
    error_ns: int
    """The true offset is at most so far from it."""


@dataclass(slots=True)
class Visit:
    """One address; what its worker did not say stays empty."""

    address: str
    """host:port."""
    trouble: Trouble | None = None
    health: str = ""
    """SERVING, or what grpc.health.v1 says instead."""
    info: pb.WorkerInfo = field(default_factory=pb.WorkerInfo)
    round_trips_ns: list[int] = field(default_factory=list)
    load: pb.WorkerLoad | None = None
    host: pb.HostInfo | None = None
    clock: Clock | None = None
    token_refusal: str = ""
    """Why the run token, or its absence, would not let a run in."""


async def visit_all(addresses: tuple[str, ...], access: Access, timeout_s: float) -> list[Visit]:
    """Visit every address, and for a node every replica but those it has given up.

    Args:
        addresses: host:port each.
        access: How to reach them.
        timeout_s: How long one address may take.

    Returns:
        In order; a node, which has `info.replicas`, comes before its replicas.
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
    # One after the other: a hundred at once would wait for each other here.
    for found in visits:
        if found.trouble is None:
            found.round_trips_ns = await _round_trips_ns(found.address, access)
    return visits


def _replicas_of(head: Visit) -> list[str]:
    """List a node's replicas; behind the port of one that it has given up may be anybody."""
    addresses = replica_addresses(head.address, head.info)
    return [
        address
        for address, replica in zip(addresses, head.info.replicas, strict=True)
        if replica.state != pb.WORKER_STATE_FAILED
    ]


async def _visit(address: str, access: Access, timeout_s: float) -> Visit:
    """Ask one worker everything, within timeout_s and what it takes to find out why it does not answer."""
    found = Visit(address)
    try:
        async with asyncio.timeout(timeout_s):
            found.trouble = await _knock(address)
            if found.trouble is None:
                await _interview(found, access)
    except TimeoutError:
        found.trouble = Trouble(
            f"does not answer all that it is asked within {timeout_s:g} s (--timeout-s)",
            "look for a stopped or overloaded process, and for a firewall that drops packets",
        )
    except grpc.aio.AioRpcError as error:
        found.trouble = await _explain(address, access, error)
    return found


async def _knock(address: str) -> Trouble | None:
    """Open a plain connection: it tells a wrong name, a closed port and a silent machine apart."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except socket.gaierror as error:
        return Trouble(f"no such name: {error.strerror}", "correct --workers, or DNS or /etc/hosts here")
    except ConnectionRefusedError:
        return Trouble("connection refused", "start the worker there, or correct the port in --workers")
    except OSError as error:
        return Trouble(f"no connection: {error.strerror}", "look at the network and the firewalls between")
    writer.transport.abort()
    return None


async def _explain(address: str, access: Access, error: grpc.aio.AioRpcError) -> Trouble:
    """Say why gRPC does not get through a port that is open."""
    why = await diagnose(address, access)
    if why is not None:
        return Trouble(why, "give the TLS flags that belong to this worker, or correct its certificate")
    words = (error.details() or "").rpartition(": ")[2]
    return Trouble(f"the port is open, but {error.code().name}: {words}", "find out what listens there")


async def _interview(found: Visit, access: Access) -> None:
    """Ask all there is to ask.

    Raises:
        grpc.aio.AioRpcError: A call fails that every worker answers.
    """
    async with access.channel(found.address, CHANNEL_OPTIONS) as channel:
        stub = rpc.WorkerStub(channel)
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
        found.health = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        found.info = await stub.GetInfo(pb.GetInfoRequest())
        if found.info.replicas:
            return
        found.load = await stub.GetLoad(pb.GetLoadRequest())
        sent_ns = time.monotonic_ns()
        found.host = await _host_of(stub)
        if found.host is not None:
            found.clock = clock_of(found.host, sent_ns, time.monotonic_ns(), time.time_ns())
        found.token_refusal = await _show_token(stub, access)


async def _round_trips_ns(address: str, access: Access) -> list[int]:
    """Time some calls; fewer, or none, where they take long."""
    times_ns: list[int] = []
    with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
        async with (
            asyncio.timeout(ROUND_TRIPS_TIMEOUT_S),
            access.channel(address, CHANNEL_OPTIONS) as channel,
        ):
            stub = rpc.WorkerStub(channel)
            # The first one connects.
            await stub.GetInfo(pb.GetInfoRequest())
            for _ in range(NUM_ROUND_TRIPS):
                sent_ns = time.monotonic_ns()
                await stub.GetInfo(pb.GetInfoRequest())
                times_ns.append(time.monotonic_ns() - sent_ns)
    return times_ns


async def _host_of(stub: "rpc.WorkerAsyncStub") -> pb.HostInfo | None:
    """Ask for the machine; None where an older worker does not have the call."""
    try:
        return await stub.GetHost(pb.GetHostRequest())
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        return None


async def _show_token(stub: "rpc.WorkerAsyncStub", access: Access) -> str:
    """Knock as a run would, in a version that no worker speaks; returns why the token is not the one."""
    opening = pb.ToWorker(open=pb.Open(protocol_version=NO_VERSION, run_id="doctor"))
    try:
        async for _ in stub.Generate(iter([opening]), metadata=access.metadata):
            break
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            return error.details() or "refused"
    return ""


def clock_of(host: pb.HostInfo, sent_ns: int, got_ns: int, wall_ns: int) -> Clock:
    """Compare clocks: the worker read its own after its looks and before its answer arrived.

    Args:
        host: Its answer.
        sent_ns: Our monotonic clock when we asked.
        got_ns: And when the answer was here.
        wall_ns: Our system clock at got_ns.
    """
    way_ns = max(got_ns - sent_ns - (host.answered_ns - host.received_ns), 0)
    return Clock(host.wall_ns - (wall_ns - way_ns // 2), (way_ns + 1) // 2)
