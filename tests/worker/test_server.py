"""Life cycle of a worker process: loading, serving, draining, exit codes."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from tests import fleet
from tests.worker.node.nodes import DYING
from tests.worker.raw_client import STOP_TOKEN_ID, Stream, connected, refusal_of
from tests.worker.test_session import DyingEngine, SlowlyEmptiedEngine
from worker.config import EngineKind, WorkerConfig
from worker.engine_protocol import EngineDead, Step
from worker.engines.scripted.counting import CountingConfig, CountingEngine
from worker.server import Server

LONG = [10_000, 7]
DRAINING = ("UNAVAILABLE", "worker is WORKER_STATE_DRAINING")


async def wait_for(channel: grpc.aio.Channel, state: pb.WorkerState) -> None:
    """Ask GetInfo until the worker is in a state, at most 60 s."""
    stub: Any = rpc.WorkerStub(channel)
    async with asyncio.timeout(60):
        while True:
            info = await stub.GetInfo(pb.GetInfoRequest(), wait_for_ready=True)
            if info.state == state:
                return
            await asyncio.sleep(0.02)


async def run_once(channel: grpc.aio.Channel) -> None:
    """Run a short run from open to end."""
    stream = Stream(channel)
    await stream.open()
    await stream.submit({1: [3, 9]})
    await stream.take_until_ended(1)
    assert stream.answers == {1: [10, 11, STOP_TOKEN_ID]}
    await stream.end()


def walk(worker: fleet.WorkerProcess, steps: Callable[[grpc.aio.Channel], Coroutine[Any, Any, None]]) -> None:
    """Run test steps over a channel to a worker's process, within 60 s, and stop the process."""

    async def bounded() -> None:
        async with asyncio.timeout(60), connected(worker.address) as channel:
            await steps(channel)

    try:
        asyncio.run(bounded())
    finally:
        worker.stop()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_lets_the_run_finish(tmp_path: Path, signum: signal.Signals) -> None:
    """After a signal health is NOT_SERVING, new runs are refused, the current one is served; exit code 0."""
    worker = fleet.start_worker(tmp_path / "log", "--step-ms", "1", "--drain-timeout-s", "60")

    async def steps(channel: grpc.aio.Channel) -> None:
        await wait_for(channel, pb.WORKER_STATE_READY)
        stream = Stream(channel)
        await stream.open("patient")
        await stream.submit({1: [100, 7]})
        await stream.take()
        worker.process.send_signal(signum)
        await wait_for(channel, pb.WORKER_STATE_DRAINING)
        assert await refusal_of(channel) == DRAINING
        async with connected(worker.address) as newcomer:
            assert await refusal_of(newcomer) == DRAINING
        for service in ("", "tokenfleet.v1.Worker"):
            assert await asyncio.to_thread(fleet.health, worker.address, service) == "NOT_SERVING"
        await stream.submit({2: [3, 20]})
        await stream.take_until_ended(1, 2)
        assert stream.answers == {1: [*range(8, 107), STOP_TOKEN_ID], 2: [21, 22, STOP_TOKEN_ID]}
        assert worker.process.poll() is None
        await stream.end()
        assert await asyncio.to_thread(worker.process.wait, 60) == 0

    walk(worker, steps)


@pytest.mark.parametrize(
    "flags, second_signal", [(["--drain-timeout-s", "600"], True), (["--drain-timeout-s", "0"], False)]
)
def test_a_drain_has_an_end(tmp_path: Path, flags: list[str], second_signal: bool) -> None:
    """A second signal, or the deadline, ends a run that does not end by itself; exit code 0."""
    worker = fleet.start_worker(tmp_path / "log", *flags)

    async def steps(channel: grpc.aio.Channel) -> None:
        await wait_for(channel, pb.WORKER_STATE_READY)
        stream = Stream(channel)
        await stream.open()
        await stream.submit({1: LONG}, budget=10_000)
        await stream.take()
        worker.process.terminate()
        if second_signal:
            await wait_for(channel, pb.WORKER_STATE_DRAINING)
            worker.process.send_signal(signal.SIGINT)
        status, _ = await stream.refusal()
        assert status in ("UNAVAILABLE", "CANCELLED")
        assert await asyncio.to_thread(worker.process.wait, 60) == 0

    walk(worker, steps)


def test_an_engine_is_emptied_before_it_is_closed() -> None:
    """A run that outlasts its drain ends as any other: the engine is not stopped while it aborts requests."""
    port, engine = fleet.free_port(), SlowlyEmptiedEngine()
    server = Server(WorkerConfig(engine=EngineKind.COUNTING, port=port, drain_timeout_s=0), engine)

    async def steps() -> None:
        running = asyncio.ensure_future(server.serve())
        async with asyncio.timeout(60), connected(f"127.0.0.1:{port}") as channel:
            await wait_for(channel, pb.WORKER_STATE_READY)
            stream = Stream(channel)
            await stream.open()
            await stream.submit({1: LONG}, budget=10_000)
            await stream.take()
            server.stop()
            await running

    asyncio.run(steps())
    assert ["emptied", "closed"] == engine.deeds


def test_a_loading_worker_says_so_and_can_be_stopped(tmp_path: Path) -> None:
    """While the engine loads, health is NOT_SERVING, runs are refused, and SIGTERM ends with exit code 0."""
    worker = fleet.start_worker(tmp_path / "log", "--load-ms", "600000")

    async def steps(channel: grpc.aio.Channel) -> None:
        await wait_for(channel, pb.WORKER_STATE_LOADING)
        assert await asyncio.to_thread(fleet.health, worker.address) == "NOT_SERVING"
        assert await refusal_of(channel) == ("UNAVAILABLE", "worker is WORKER_STATE_LOADING")
        worker.process.terminate()
        assert await asyncio.to_thread(worker.process.wait, 60) == 0

    walk(worker, steps)


def test_a_taken_port_is_bad_input(tmp_path: Path) -> None:
    """A second worker on a port that is taken exits with 2 and one line that names --port and the address."""
    first = fleet.start_worker(tmp_path / "first", "--load-ms", "600000")
    port = first.address.rpartition(":")[2]

    async def steps(channel: grpc.aio.Channel) -> None:
        await wait_for(channel, pb.WORKER_STATE_LOADING)
        second = fleet.start_worker(tmp_path / "second", "--port", port)
        assert await asyncio.to_thread(second.process.wait, 60) == 2
        lines = (tmp_path / "second").read_text().splitlines()
        assert lines[-1] == f"worker: --port: cannot listen on {first.address}, is it in use?"

    walk(first, steps)


@pytest.mark.parametrize("draining", [False, True])
def test_an_engine_that_dies_takes_the_worker_with_it(draining: bool) -> None:
    """The server ends with EngineDead, exit code 1, when its engine dies under a run, during a drain too."""
    port = fleet.free_port()
    config = WorkerConfig(engine=EngineKind.COUNTING, port=port, drain_timeout_s=60)

    async def steps() -> None:
        running = asyncio.ensure_future(Server(config, DyingEngine()).run(lambda: None))
        async with asyncio.timeout(60), connected(f"127.0.0.1:{port}") as channel:
            await wait_for(channel, pb.WORKER_STATE_READY)
            stream = Stream(channel)
            await stream.open()
            if draining:
                signal.raise_signal(signal.SIGTERM)
                await wait_for(channel, pb.WORKER_STATE_DRAINING)
            await stream.submit({1: LONG}, budget=1000)
            assert await stream.refusal() == ("UNAVAILABLE", "engine died: out of memory")
            with pytest.raises(EngineDead, match=r"^out of memory$"):
                await running

    asyncio.run(steps())


def test_a_worker_says_last_why_its_engine_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1; the cause is sent as STATUS and is the last line of the log, without shutdown output."""
    noisy = "import atexit\natexit.register(print, 'leaked types')\n"
    (tmp_path / "sitecustomize.py").write_text(DYING + noisy)
    environment = {"PYTHONPATH": f"{tmp_path}:{fleet.ROOT}", "NOTIFY_SOCKET": str(tmp_path / "notify")}
    monkeypatch.setattr(fleet, "VLLM_CPU_ENV", os.environ | environment)
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        worker = fleet.start_worker(tmp_path / "log", program=fleet.WORKER)
        try:
            assert 1 == worker.process.wait(60)
        finally:
            worker.stop()
        told = [listening.recv(1000) for _ in range(3)]
    assert [b"READY=1", b"STOPPING=1", b"STATUS=engine died: CUDA error: out of memory"] == told
    last = worker.log.read_text().splitlines()[-1]
    assert last.endswith(" ERROR worker: engine died: CUDA error: out of memory")


class MortalEngine(CountingEngine):
    """Dies when `death` is set, with or without requests."""

    def __init__(self) -> None:
        super().__init__(CountingConfig(step_ms=0))
        self.death = asyncio.Event()

    async def step(self) -> Step:
        """Step, or die while waiting for work."""
        stepping = asyncio.ensure_future(super().step())
        dying = asyncio.ensure_future(self.death.wait())
        try:
            await asyncio.wait((stepping, dying), return_when=asyncio.FIRST_COMPLETED)
        finally:
            dying.cancel()
            stepping.cancel()
        if self.death.is_set():
            raise EngineDead("out of memory")
        return stepping.result()


@pytest.mark.parametrize("num_runs", [0, 1, 2])
def test_an_engine_that_dies_between_runs_takes_the_worker_with_it(num_runs: int) -> None:
    """The server ends with EngineDead when its engine dies without a run, before the first or after any."""
    port = fleet.free_port()

    async def steps() -> None:
        engine = MortalEngine()
        running = asyncio.ensure_future(
            Server(WorkerConfig(engine=EngineKind.COUNTING, port=port), engine).run(lambda: None)
        )
        async with asyncio.timeout(60), connected(f"127.0.0.1:{port}") as channel:
            await wait_for(channel, pb.WORKER_STATE_READY)
            for _ in range(num_runs):
                await run_once(channel)
            engine.death.set()
            with pytest.raises(EngineDead, match=r"^out of memory$"):
                await running

    asyncio.run(steps())
