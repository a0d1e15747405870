"""GetHost: a worker describes its machine in every state, also when a driver hangs."""

import gc
import platform
import threading
import time
from pathlib import Path

import grpc
import pytest

import worker.machine.host_info
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from tests import fleet
from tests.worker.asks import run
from worker.machine.host_info import HostInspector, hugging_face_cache

WAIT_S = 60.0


def ask(address: str) -> pb.HostInfo:
    """Ask a worker once."""
    with grpc.insecure_channel(address) as channel:
        host: pb.HostInfo = rpc.WorkerStub(channel).GetHost(
            pb.GetHostRequest(), timeout=WAIT_S, wait_for_ready=True
        )
    return host


def test_worker_tells_of_its_machine_while_it_loads(tmp_path: Path) -> None:
    """A worker that is not ready answers: limits, disks, and the clocks of this machine, in order."""
    loading = fleet.start_worker(tmp_path / "worker.log", "--load-ms", "60000", cwd=fleet.ROOT)
    try:
        before_ns, wall_ns = time.monotonic_ns(), time.time_ns()
        host = ask(loading.address)
        after_ns, wall_after_ns = time.monotonic_ns(), time.time_ns()
        assert "NOT_SERVING" == fleet.health(loading.address)
    finally:
        loading.stop()
    # One machine, one clock.
    assert before_ns <= host.received_ns <= host.answered_ns <= after_ns
    assert wall_ns <= host.wall_ns <= wall_after_ns
    assert ["working directory", "Hugging Face cache"] == [disk.purpose for disk in host.disks]
    assert str(fleet.ROOT) == host.disks[0].path
    assert platform.release() == host.hardware["kernel"]
    assert "GRPC_EXPERIMENTS" in host.environment
    assert [] == list(host.not_told)


def test_look_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a driver hangs, calls return the other facts in time and start no second thread."""
    begun, release = [], threading.Event()

    def hang() -> pb.HostInfo:
        begun.append(1)
        release.wait(WAIT_S)
        return pb.HostInfo(accelerators=[pb.Accelerator(name="slow")])

    monkeypatch.setattr(worker.machine.host_info, "_read_slow_facts", hang)
    monkeypatch.setattr(worker.machine.host_info, "READ_TIMEOUT_S", 0.2)

    async def ask_thrice() -> list[pb.HostInfo]:
        host = HostInspector()
        early = [await host.read(), await host.read()]
        release.set()
        return [*early, await host.read()]

    first, second, third = run(ask_thrice())
    for told in (first, second):
        assert ["hardware, disks and accelerators: no answer within 0.2 s"] == list(told.not_told)
        assert [] == list(told.accelerators)
        assert told.num_cores > 0
        assert told.wall_ns > 0
    assert ["slow"] == [device.name for device in third.accelerators]
    assert 1 == len(begun)


def test_look_that_fails_fails_the_call(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception fails the call and is logged once."""

    def fail() -> pb.HostInfo:
        raise RuntimeError("broken")

    monkeypatch.setattr(worker.machine.host_info, "_read_slow_facts", fail)
    with pytest.raises(RuntimeError, match="broken"):
        run(HostInspector().read())
    # What nobody awaited would say so now.
    gc.collect()
    assert ["reading host facts"] == [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, "/home/me/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/cache"}, "/cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "/cache", "HF_HOME": "/hf"}, "/hf/hub"),
        ({"HF_HOME": "/hf", "HF_HUB_CACHE": "/models"}, "/models"),
    ],
)
def test_cache_is_where_huggingface_hub_has_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    """The variables count in huggingface_hub's order."""
    for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Path(expected) == hugging_face_cache(Path("/home/me"))
