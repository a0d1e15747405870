"""A node of replicas: one address for all, and a process for each that is watched and started again."""

import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import SERVICE
from tests import fleet
from tests.forked import completed_command
from tests.worker.node.nodes import WAIT_S, gone, info_of, states_of, wait_until


def replica_address(node: fleet.WorkerProcess, index: int) -> str:
    """Give where a replica answers: at the ports behind the node's."""
    host, _, port = node.address.rpartition(":")
    return f"{host}:{int(port) + 1 + index}"


@pytest.fixture(scope="module")
def lasting_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.WorkerProcess]:
    """Run a node of two replicas for all tests that leave it serving."""
    with fleet.node(tmp_path_factory.mktemp("node"), 2, "--step-ms", "5") as started:
        yield started


@pytest.fixture
def node(tmp_path: Path) -> Iterator[fleet.WorkerProcess]:
    """Run a node of two replicas."""
    with fleet.node(tmp_path, 2, "--step-ms", "5") as started:
        yield started


def test_a_node_answers_for_its_replicas(lasting_node: fleet.WorkerProcess) -> None:
    """GetInfo names each replica's port and process, which says the same of itself; health has all."""
    info = info_of(lasting_node.address)
    assert ["READY"] * 3 == states_of(lasting_node.address)
    assert lasting_node.process.pid == info.pid
    for index, replica in enumerate(info.replicas):
        address = replica_address(lasting_node, index)
        assert address.endswith(f":{replica.port}")
        own = info_of(address)
        assert (own.pid, "counting", []) == (replica.pid, own.engine, list(own.replicas))
        assert "SERVING" == fleet.health(lasting_node.address, f"{SERVICE}.replica.{index}")
    assert ["SERVING", "SERVING"] == [fleet.health(lasting_node.address, name) for name in ("", SERVICE)]
    assert "NOT_FOUND" == fleet.health(lasting_node.address, f"{SERVICE}.replica.2")


def test_replicas_have_disjoint_cores(lasting_node: fleet.WorkerProcess) -> None:
    """Each of two replicas runs on its own part of this test's cores, where there are two or more."""
    mine = os.sched_getaffinity(0)
    first, second = (os.sched_getaffinity(replica.pid) for replica in info_of(lasting_node.address).replicas)
    assert first | second == mine
    assert len(mine) < 2 or not first & second


def test_a_run_is_refused_by_the_node_itself(lasting_node: fleet.WorkerProcess) -> None:
    """Generate and GetLoad end with FAILED_PRECONDITION that names the replicas' ports."""
    host, _, port = lasting_node.address.rpartition(":")
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        stub = rpc.WorkerStub(channel)
        for call in (
            lambda: stub.GetLoad(pb.GetLoadRequest(), timeout=60),
            lambda: list(stub.Generate(iter([pb.ToWorker()]), timeout=60)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call()
            error: grpc.Call = caught.value  # type: ignore[assignment]  # gRPC's errors are calls
            assert grpc.StatusCode.FAILED_PRECONDITION == error.code()
            assert f"{int(port) + 1}, {int(port) + 2}" in (error.details() or "")


def test_a_killed_replica_is_started_again(lasting_node: fleet.WorkerProcess) -> None:
    """Kill -9: the node is degraded and says why, the other serves on; then both serve, one restarted."""
    victim = info_of(lasting_node.address).replicas[1].pid
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: states_of(lasting_node.address)[0] == "DEGRADED", lasting_node.log)
    assert ["SERVING", "NOT_SERVING"] == [fleet.health(lasting_node.address, name) for name in ("", SERVICE)]
    assert "SERVING" == fleet.health(lasting_node.address, f"{SERVICE}.replica.0")
    wait_until(lambda: states_of(lasting_node.address) == ["READY"] * 3, lasting_node.log)
    first, second = info_of(lasting_node.address).replicas
    assert (0, "", 1, "ended by SIGKILL") == (first.restarts, first.reason, second.restarts, second.reason)
    assert victim != second.pid


def test_what_a_replica_leaves_behind_does_not_hold_up_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed replica's own child, which holds its log open, is ended with it, and the next one starts."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, subprocess\n"
        "if 'TOKENFLEET_NODE_PID' in os.environ:\n"
        "    child = subprocess.Popen(['sleep', '600'])\n"
        "    print('child', child.pid, flush=True)\n"
    )
    monkeypatch.setattr(fleet, "VLLM_CPU_ENV", os.environ | {"PYTHONPATH": str(tmp_path)})
    with fleet.node(tmp_path, 2) as node:
        children = [int(pid) for pid in re.findall(r"child ([0-9]+)", node.log.read_text())]
        assert 2 == len(children)
        os.kill(info_of(node.address).replicas[0].pid, signal.SIGKILL)
        wait_until(lambda: info_of(node.address).replicas[0].restarts == 1, node.log)
        wait_until(lambda: sum(map(gone, children)) == 1, node.log)
        fleet.wait_serving(node)


def test_what_ends_after_a_replica_may_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that removes a killed replica's memory half a second later, like Python's resource tracker."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, subprocess\n"
        "if 'TOKENFLEET_NODE_PID' in os.environ:\n"
        f"    memory = '{tmp_path}/memory' + str(os.getpid())\n"
        "    open(memory, 'w').close()\n"
        "    clean = 'read line; sleep 0.5; rm ' + memory\n"
        "    child = subprocess.Popen(['sh', '-c', clean], stdin=subprocess.PIPE)\n"
    )
    monkeypatch.setattr(fleet, "VLLM_CPU_ENV", os.environ | {"PYTHONPATH": str(tmp_path)})
    with fleet.node(tmp_path, 2) as node:
        killed, other = (replica.pid for replica in info_of(node.address).replicas)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: info_of(node.address).replicas[0].restarts == 1, node.log)
        assert not (tmp_path / f"memory{killed}").exists()
        assert (tmp_path / f"memory{other}").exists()


def test_replicas_drain_with_their_node(node: fleet.WorkerProcess) -> None:
    """SIGTERM ends the node with 0, and every replica before it, of itself."""
    pids = [replica.pid for replica in info_of(node.address).replicas]
    assert 0 == node.stop()
    assert [True, True] == [gone(pid) for pid in pids]
    assert "SIGKILL" not in node.log.read_text()


def test_no_replica_outlives_a_killed_node(node: fleet.WorkerProcess) -> None:
    """Kill -9 of the node alone: the kernel tells its replicas, and they end without a drain."""
    pids = [replica.pid for replica in info_of(node.address).replicas]
    node.process.kill()
    node.process.wait(60)
    wait_until(lambda: all(map(gone, pids)), node.log)


def test_no_replica_that_still_begins_outlives_a_killed_node_under_nohup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node dies while its replicas look at their flags, with SIGHUP ignored as nohup hands it down."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "if 'TOKENFLEET_NODE_PID' in os.environ:\n"
        "    import worker.machine.parent_death\n"
        "    follow = worker.machine.parent_death.end_with_node\n"
        "    def linger():\n"
        "        follow()\n"
        "        print('lingers', os.getpid(), flush=True)\n"
        "        time.sleep(600)\n"
        "    worker.machine.parent_death.end_with_node = linger\n"
    )
    monkeypatch.setattr(fleet, "VLLM_CPU_ENV", os.environ | {"PYTHONPATH": f"{tmp_path}:{fleet.ROOT}"})
    address = f"127.0.0.1:{fleet.free_port(3)}"
    program = ("nohup", sys.executable, "-m", "worker")
    node = fleet.start_worker(tmp_path / "log", "--replicas", "2", address=address, program=program)
    try:
        wait_until(lambda: node.log.read_text().count("lingers") == 2, node.log)
        pids = [int(pid) for pid in re.findall("lingers ([0-9]+)", node.log.read_text())]
    finally:
        node.process.kill()
        node.process.wait(60)
    wait_until(lambda: all(map(gone, pids)), node.log)


def test_a_temporary_directory_without_sockets_is_bad_input(tmp_path: Path) -> None:
    """A TMPDIR too long for a socket's path: exit 2 and one line, before anything starts."""
    directory = tmp_path / ("x" * 100)
    directory.mkdir()
    done = completed_command(
        [sys.executable, "-m", "worker", "--engine", "counting", "--replicas", "2"], TMPDIR=str(directory)
    )
    line = f"worker: TMPDIR: {directory}: no socket for replicas can be created there: AF_UNIX path too long"
    assert (2, [line]) == (done.returncode, done.stderr.splitlines())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--replicas 0", "--replicas: 0 is not in 1..64"),
        ("--replicas two", "--replicas: invalid int value: 'two'"),
        ("--replicas 3 --port 65533", "--port: 65533 leaves no ports up to 65535 for 3 replicas"),
        ("--cores 999", "--cores: 999 is not within"),
        ("--cores 1-", "'1-' is not a list of cores like 0-3,8"),
        ("--engine vllm --model m --replicas 64 -tp 64", "--replicas: 64 of 64 ranks each on"),
        ("--engine vllm --replicas 2", "--model: missing"),
        ("--engine vllm --model /nowhere --replicas 2", "--model: no directory /nowhere"),
        ("--engine vllm --model m --replicas 2 -tp 0", "-tp: 0 is below 1"),
    ],
)
def test_bad_nodes_are_one_line(flags: str, says: str) -> None:
    """Exit 2 and one line on stderr, before anything starts."""
    command = [sys.executable, "-m", "worker", "--engine", "counting", *flags.split()]
    done = completed_command(command)
    lines = done.stderr.strip().splitlines()
    assert 1 == len(lines), done.stderr
    (line,) = lines
    assert (2, True) == (done.returncode, says in line), line


def test_flags_that_no_replica_can_serve_end_the_node(tmp_path: Path) -> None:
    """Each replica ends with 2: so does the node, with the line of the first."""
    port = fleet.free_port(3)
    node = fleet.start_worker(
        tmp_path / "log", "--replicas", "2", "--step-ms", "-1", address=f"127.0.0.1:{port}"
    )
    try:
        assert 2 == node.process.wait(WAIT_S)
    finally:
        node.stop()
    assert "worker: --step-ms: -1.0 is below 0 or not finite" == node.log.read_text().strip().splitlines()[-1]


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node tells $NOTIFY_SOCKET once all its replicas serve, and when it stops: Type=notify works."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(WAIT_S)
        monkeypatch.setattr(fleet, "VLLM_CPU_ENV", os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        with fleet.node(tmp_path, 2):
            assert b"READY=1" == listening.recv(100)
        assert b"STOPPING=1" == listening.recv(100)
