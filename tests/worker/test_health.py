"""Third-party clients: health, reflection and the unary calls, through plain stubs and through `buf curl`."""

import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import PROTOCOL_VERSION, SERVICE
from tests import fleet
from tests.forked import completed_command, main_of
from tests.worker.node.nodes import wait_until

BUF = os.environ.get("BUF") or shutil.which("buf")
needs_buf = pytest.mark.skipif(BUF is None, reason="no buf on PATH or in $BUF (npm package @bufbuild/buf)")
WAIT_S = 60.0
LIFE = ["NOT_SERVING", "SERVING", "NOT_SERVING"]
NOT_FOUND_EXIT = 40  # buf's exit code is 8 times gRPC's status code; NOT_FOUND is 5
FAILED_PRECONDITION_EXIT = 72


# A worker that loads until a file is there.
LOADING = """
import asyncio, os, sys
from worker.__main__ import main
from worker.engines.scripted.counting import CountingEngine
start = CountingEngine.start
async def start_when_allowed(self):
    while not os.path.exists({allowed!r}):
        await asyncio.sleep(0.01)
    return await start(self)
CountingEngine.start = start_when_allowed
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.WorkerProcess]:
    """Run a worker that serves."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 1) as (started,):
        yield started


@pytest.fixture
def loading(tmp_path: Path) -> Iterator[fleet.WorkerProcess]:
    """Start a worker that listens, and loads until `live`."""
    program = main_of(LOADING.format(allowed=str(tmp_path / "allowed")))
    started = fleet.start_worker(tmp_path / "worker.log", program=program)
    wait_until(lambda: "listening" in started.log.read_text(), started.log)
    yield started
    started.stop()


@contextmanager
def held(address: str) -> Iterator[None]:
    """Hold a worker with a run that does nothing."""
    spec = pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=8)
    opening = pb.Open(protocol_version=PROTOCOL_VERSION, run_id="holder", spec=spec)
    outgoing: queue.SimpleQueue[pb.ToWorker | None] = queue.SimpleQueue()
    outgoing.put(pb.ToWorker(open=opening))
    with grpc.insecure_channel(address) as channel:
        incoming = rpc.WorkerStub(channel).Generate(iter(outgoing.get, None), timeout=WAIT_S)
        try:
            assert next(incoming).HasField("opened")
            yield
            outgoing.put(pb.ToWorker(ping=pb.Ping(nonce=5)))
            assert 5 == next(incoming).pong.nonce
        finally:
            outgoing.put(None)
        assert [] == list(incoming)


def state_of(address: str) -> str:
    """Ask GetInfo for the worker's state."""
    with grpc.insecure_channel(address) as channel:
        info = rpc.WorkerStub(channel).GetInfo(pb.GetInfoRequest(), timeout=60, wait_for_ready=True)
    return pb.WorkerState.Name(info.state)


def watch(address: str, service: str, seen: list[str]) -> None:
    """Collect the statuses of Health/Watch until the worker ends."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        answers = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=WAIT_S, wait_for_ready=True)
        with pytest.raises(grpc.RpcError):
            for answer in answers:
                seen.append(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))  # noqa: PERF401


def live(started: fleet.WorkerProcess) -> None:
    """Take a loading worker through serving and draining a run to its end."""
    started.log.with_name("allowed").touch()
    wait_until(lambda: fleet.health(started.address) == "SERVING", started.log)
    with held(started.address):
        started.process.terminate()
        wait_until(lambda: fleet.health(started.address) == "NOT_SERVING", started.log)
        assert "NOT_SERVING" == fleet.health(started.address, SERVICE)
        assert "WORKER_STATE_DRAINING" == state_of(started.address)
        with pytest.raises(grpc.RpcError, match="worker is WORKER_STATE_DRAINING"), held(started.address):
            pass
    assert 0 == started.process.wait(WAIT_S)


def buf_command(started: fleet.WorkerProcess, path: str, *words: str) -> list[str]:
    """Compose a `buf curl`."""
    plain = ["curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    return [str(BUF), *plain, *words, f"http://{started.address}{path}"]


def buf(started: fleet.WorkerProcess, path: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `buf curl` to its end."""
    command = buf_command(started, path, *words)
    return completed_command(command, WAIT_S)


def ask(started: fleet.WorkerProcess, method: str, **request: str) -> dict[str, object]:
    """Make one unary call with `buf curl`, which learns the schema by reflection."""
    done = buf(started, f"/{method}", "--data", json.dumps(request))
    assert 0 == done.returncode, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_health_follows_the_life_of_a_worker(loading: fleet.WorkerProcess) -> None:
    """Watch reports NOT_SERVING while loading and draining, else SERVING, overall and by service."""
    seen: dict[str, list[str]] = {"": [], SERVICE: []}
    watchers = [threading.Thread(target=watch, args=(loading.address, *item)) for item in seen.items()]
    for watcher in watchers:
        watcher.start()
    assert "NOT_SERVING" == fleet.health(loading.address)
    assert "NOT_SERVING" == fleet.health(loading.address, SERVICE)
    assert "WORKER_STATE_LOADING" == state_of(loading.address)
    wait_until(lambda: all(seen.values()), loading.log)
    live(loading)
    for watcher in watchers:
        watcher.join(WAIT_S)
    assert {"": LIFE, SERVICE: LIFE} == seen


def test_serving_worker_says_what_it_is_and_does(worker: fleet.WorkerProcess) -> None:
    """GetInfo and GetLoad answer a second client while a run is open."""
    with grpc.insecure_channel(worker.address) as channel, held(worker.address):
        stub = rpc.WorkerStub(channel)
        info = stub.GetInfo(pb.GetInfoRequest(), timeout=60)
        load = stub.GetLoad(pb.GetLoadRequest(), timeout=60)
    assert ("counting", worker.process.pid, pb.WORKER_STATE_READY) == (info.engine, info.pid, info.state)
    assert pb.WorkerLoad(run_id="holder") == load


def test_unknown_service_is_not_found(worker: fleet.WorkerProcess) -> None:
    """Health of a service that the worker does not have is NOT_FOUND, of its own two SERVING."""
    assert ["SERVING", "SERVING", "NOT_FOUND"] == [
        fleet.health(worker.address, service) for service in ("", SERVICE, "tokenfleet.v1.Nobody")
    ]


@needs_buf
def test_buf_finds_services_and_methods_by_reflection(worker: fleet.WorkerProcess) -> None:
    """A client without the proto file reads services and methods from the worker."""
    services = buf(worker, "", "--list-services")
    methods = buf(worker, "", "--list-methods")
    assert (0, 0) == (services.returncode, methods.returncode), services.stderr + methods.stderr
    assert {"grpc.health.v1.Health", SERVICE} <= set(services.stdout.split())
    names = {f"{SERVICE}/{name}" for name in ("Generate", "GetInfo", "GetLoad")}
    names |= {f"grpc.health.v1.Health/{name}" for name in ("Check", "Watch")}
    assert names <= set(methods.stdout.split())


@needs_buf
def test_buf_calls_every_unary_method(worker: fleet.WorkerProcess) -> None:
    """Health/Check, GetInfo and GetLoad answer `buf curl` beside a run; a second run is refused by name."""
    opening = {"protocolVersion": PROTOCOL_VERSION, "spec": {"topP": 1, "topK": -1, "maxNewTokens": 8}}
    with held(worker.address):
        assert {"status": "SERVING"} == ask(worker, "grpc.health.v1.Health/Check")
        assert {"status": "SERVING"} == ask(worker, "grpc.health.v1.Health/Check", service=SERVICE)
        info = ask(worker, f"{SERVICE}/GetInfo")
        assert {"runId": "holder"} == ask(worker, f"{SERVICE}/GetLoad")
        refused = buf(worker, f"/{SERVICE}/Generate", "--data", json.dumps({"open": opening}))
    assert ("WORKER_STATE_READY", worker.process.pid, [fleet.STOP]) == (
        info["state"],
        info["pid"],
        info["stopTokenIds"],
    )
    assert FAILED_PRECONDITION_EXIT == refused.returncode
    assert "run holder holds this worker" in refused.stderr
    unknown = buf(worker, "/grpc.health.v1.Health/Check", "--data", '{"service": "tokenfleet.v1.Nobody"}')
    assert NOT_FOUND_EXIT == unknown.returncode


@needs_buf
def test_buf_watches_the_life_of_a_worker(loading: fleet.WorkerProcess, tmp_path: Path) -> None:
    """`buf curl` on Health/Watch prints NOT_SERVING, SERVING, NOT_SERVING, and ends with the worker."""
    command = buf_command(loading, "/grpc.health.v1.Health/Watch", "--data", json.dumps({"service": SERVICE}))
    printed = tmp_path / "printed"
    with printed.open("wb") as output, subprocess.Popen(command, stdout=output) as watcher:
        try:
            assert {"status": "NOT_SERVING"} == ask(loading, "grpc.health.v1.Health/Check", service=SERVICE)
            assert "WORKER_STATE_LOADING" == ask(loading, f"{SERVICE}/GetInfo")["state"]
            wait_until(lambda: "status" in printed.read_text(), loading.log)
            live(loading)
            watcher.wait(WAIT_S)
        finally:
            watcher.kill()
    statuses = [line.split('"')[3] for line in printed.read_text().splitlines() if "status" in line]
    assert LIFE == statuses
