"""Workers whose answers would differ are refused, at the start of a run and when they come back."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from coordinator.recording.run_record import WorkerRow
from coordinator.scheduling.request_table import DONE
from coordinator.scheduling.worker_load import WorkerLoad
from coordinator.transport.access import Access
from coordinator.transport.agreement import FleetError
from coordinator.transport.fleet import Fleet, OpenFleet, Patience
from coordinator.transport.stream import Limits
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS, PROTOCOL_VERSION, SERVICE
from worker.engines.scripted.counting import CountingConfig, CountingEngine
from worker.servicer import WorkerServicer

WAIT_S = 60.0
OPENING = pb.Open(
    protocol_version=PROTOCOL_VERSION,
    run_id="run",
    spec=pb.RunSpec(temperature=0.0, top_p=1.0, top_k=-1, max_new_tokens=8),
)


class Admissions:
    """A receiver without requests that keeps the indices of lost and of admitted workers."""

    def __init__(self) -> None:
        self.admitted: list[int] = []
        self.lost: list[int] = []

    def deliver(self, *_: Any) -> None:
        """Drop tokens."""

    def lose(self, worker: int, reason: str) -> None:
        """Keep the index."""
        self.lost.append(worker)

    def admit(self, worker: int) -> None:
        """Keep the index."""
        self.admitted.append(worker)

    def fail(self, reason: str) -> None:
        """Fail the test."""
        raise AssertionError(reason)


class Host:
    """One address at which a test starts and stops workers."""

    def __init__(self) -> None:
        self.port = 0
        self._server: grpc.aio.Server | None = None
        self._servicer: WorkerServicer | None = None

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    async def start(self, **flags: Any) -> None:
        """Serve a counting engine with these flags."""
        engine = CountingEngine(CountingConfig(**flags))
        servicer = self._servicer = WorkerServicer(engine, 0, 60)
        server = self._server = grpc.aio.server(options=CHANNEL_OPTIONS)
        healthy = health.aio.HealthServicer()
        await healthy.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        rpc.add_WorkerServicer_to_server(servicer, server)
        self.port = server.add_insecure_port(self.address)
        await server.start()
        servicer.admit_runs(await engine.start())

    async def stop(self) -> None:
        """End it, and every stream."""
        if self._server is not None and self._servicer is not None:
            await self._server.stop(grace=None)
            await self._servicer.close()


@contextlib.asynccontextmanager
async def fleet_of(*workers: dict[str, Any]) -> AsyncIterator[tuple[Fleet, list[Host]]]:
    """Start workers with these flags, and a fleet that has yet to connect to them."""
    hosts = [Host() for _ in workers]
    fleet: Fleet | None = None
    try:
        for host, flags in zip(hosts, workers, strict=True):
            await host.start(**flags)
        addresses = tuple(host.address for host in hosts)
        fleet = Fleet(addresses, Access(), Patience(Limits(5, 60), WAIT_S, True))
        yield fleet, hosts
    finally:
        if fleet is not None:
            await fleet.close()
        for host in hosts:
            await host.stop()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something, up to WAIT_S."""
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - links tell nobody
            await asyncio.sleep(0.01)


def test_workers_with_other_engine_arguments_are_refused_by_name() -> None:
    """Two workers whose answers differ: the line names the argument, both addresses and both values."""

    async def connect() -> None:
        async with fleet_of({"seed": 3}, {"seed": 4}) as (fleet, (first, second)):
            with pytest.raises(FleetError) as caught:
                await fleet.wait_ready(WAIT_S)
            expected = f"--workers: seed differs: {first.address} has 3, {second.address} has 4"
            assert expected == str(caught.value)

    asyncio.run(connect())


def test_a_worker_restarted_before_the_run_opens_is_refused_by_name() -> None:
    """A worker that restarts with another argument between the check and `open` is refused."""

    async def connect() -> None:
        async with fleet_of({"seed": 3}, {"seed": 3}) as (fleet, (first, second)):
            await fleet.wait_ready(WAIT_S)
            await second.stop()
            await second.start(seed=4)
            await fleet.links[1].reconnect()
            with pytest.raises(
                FleetError, match=f"seed differs: {first.address} has 3, {second.address} has 4"
            ):
                await fleet.open(OPENING, Admissions())

    asyncio.run(connect())


def test_a_worker_that_comes_back_with_another_argument_is_not_taken_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is named with the argument as long as it differs, and taken back when it no longer does.

    The only live worker: nothing but the run itself remembers what was agreed on.
    """
    caplog.set_level(logging.INFO)

    async def come_and_go() -> OpenFleet:
        async with fleet_of({"seed": 3}) as (fleet, (host,)):
            await fleet.wait_ready(WAIT_S)
            receiver = Admissions()
            run = await fleet.open(OPENING, receiver)
            await host.stop()
            await host.start(seed=4)
            await until(lambda: "is not back: --workers: seed differs" in caplog.text)
            assert ([0], [0]) == (receiver.admitted, receiver.lost)
            await host.stop()
            await host.start(seed=3, max_num_seqs=7)
            await until(lambda: receiver.admitted == [0, 0])
            link = fleet.links[0]
            # The refused process has no stream; the two others describe themselves, each in its own words.
            limits = [info.execution_facts["max_num_seqs"] for info in link.infos]
            assert ["256", "7"] == limits
            row = WorkerRow.of(link, WorkerLoad(link), np.zeros(0, DONE), first_issued_ns=0)
            assert [256, 7] == [info["max_num_seqs"] for info in row.stream_infos]
            await run.halt()
            return run

    run = asyncio.run(come_and_go())
    assert run.spec_hash


def test_allowed_differences_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Workers with other batch limits serve one run; a warning names property, values and workers."""

    async def connect() -> None:
        async with fleet_of({}, {"max_num_seqs": 7}, {}) as (fleet, hosts):
            await fleet.wait_ready(WAIT_S)
            run = await fleet.open(OPENING, Admissions())
            await run.halt()
            first, second = hosts[:2]
            values = f"256 at 2 workers, first {first.address}, 7 at {second.address}"
            assert f"workers may differ in max_num_seqs: {values}" in caplog.messages

    asyncio.run(connect())
