"""A node's replicas that fail: which are started again, which are given up, and what is said of them."""

import contextlib
import itertools
import os
import re
import resource
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from protos.columns import SERVICE
from tests import fleet
from tests.worker.node.nodes import DYING, WAIT_S, info_of, node_of, states_of, wait_until

# The product's own node with pauses of a hundredth.
FAST_NODE = """
import sys
from worker import __main__
from worker.node import replica
replica.FIRST_BACKOFF_S = 0.01
sys.exit(__main__.main(sys.argv[1:]))
"""
# One that goes on trying.
PATIENT_NODE = """
import sys
from worker import __main__
from worker.node import replica
replica.FIRST_BACKOFF_S = replica.MAX_BACKOFF_S = 0.05
replica.MAX_CRASHES = 1000
sys.exit(__main__.main(sys.argv[1:]))
"""
# One that is told to stop when its first process has just begun.
STOPPED_NODE = """
import asyncio, os, signal, sys
from worker import __main__
start = asyncio.create_subprocess_exec
async def start_and_stop(*args, **kwargs):
    process = await start(*args, **kwargs)
    if not stops:
        stops.append(os.kill(os.getpid(), signal.SIGTERM))
    await asyncio.sleep(0.2)
    return process
stops = []
asyncio.create_subprocess_exec = start_and_stop
sys.exit(__main__.main(sys.argv[1:]))
"""
# One that finds hung replicas sooner, and whose first process is stopped as soon as it has been started.
HUNG_NODE = """
import asyncio, signal, sys
from worker import __main__
from worker.node import replica
replica.HANG_TIMEOUT_S = 10.0
start = asyncio.create_subprocess_exec
async def start_and_stop(*args, **kwargs):
    process = await start(*args, **kwargs)
    if not stopped:
        stopped.append(process.send_signal(signal.SIGSTOP))
    return process
stopped = []
asyncio.create_subprocess_exec = start_and_stop
sys.exit(__main__.main(sys.argv[1:]))
"""
# One whose processes never end, as far as it can see: those of replicas are in the kernel.
HELD_NODE = """
import asyncio, sys
from worker import __main__
from worker.node import node
from worker.node.replica_process import ReplicaProcess
async def never_ends(process):
    await asyncio.Event().wait()
ReplicaProcess.wait = never_ends
node.STOP_TIMEOUT_S = node.KILL_TIMEOUT_S = 0.2
sys.exit(__main__.main([*sys.argv[1:], "--drain-timeout-s", "0"]))
"""


def test_killed_replicas_that_do_not_end_do_not_hold_their_node(tmp_path: Path) -> None:
    """After SIGTERM the node gives them up, says how many, and ends."""
    with node_of(HELD_NODE, tmp_path) as node:
        wait_until(lambda: states_of(node.address) == ["READY"] * 3, node.log)
        assert 0 == node.stop()
    assert "2 killed replicas have not ended after 0.2 s" in node.log.read_text()


def test_a_replica_that_hangs_is_killed_and_restarted_unless_it_loads(tmp_path: Path) -> None:
    """Two stopped replicas: the one that had served is another process soon, the one that loads is left."""
    with node_of(HUNG_NODE, tmp_path) as node:
        wait_until(lambda: sorted(states_of(node.address)[1:]) == ["LOADING", "READY"], node.log)
        hangs, loads = sorted(range(2), key=lambda index: states_of(node.address)[1 + index] != "READY")
        hung, loading = (info_of(node.address).replicas[index].pid for index in (hangs, loads))
        os.kill(hung, signal.SIGSTOP)
        words = f"replica {hangs}: no sign of life for 10 s, ended by SIGKILL; restarting in 1 s"
        wait_until(lambda: words in node.log.read_text(), node.log)
        wait_until(lambda: states_of(node.address)[1 + hangs] == "READY", node.log)
        assert hung != info_of(node.address).replicas[hangs].pid
        assert loading == info_of(node.address).replicas[loads].pid
        os.kill(loading, signal.SIGCONT)
        wait_until(lambda: states_of(node.address) == ["READY"] * 3, node.log)
        assert loading == info_of(node.address).replicas[loads].pid
        assert 0 == node.stop()


def test_a_replica_that_cannot_load_is_given_up_and_the_other_goes_on(tmp_path: Path) -> None:
    """A foreign socket holds the second replica's port: its words are shown, the node is degraded."""
    port = fleet.free_port(3)
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", port + 2))
        foreign.listen()
        node = fleet.start_worker(tmp_path / "log", "--replicas", "2", address=f"127.0.0.1:{port}")
        try:
            wait_until(lambda: states_of(node.address) == ["DEGRADED", "READY", "FAILED"], node.log)
            reason = info_of(node.address).replicas[1].reason
            words = f"--port: cannot listen on 127.0.0.1:{port + 2}, is it in use?"
            assert f"exit code 2: {words}" == reason
            assert f"[replica 1] worker: {words}" in node.log.read_text()
            assert ["SERVING", "NOT_SERVING"] == [fleet.health(node.address, name) for name in ("", SERVICE)]
            data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(4))
            done = fleet.coordinate([node], data, tmp_path / "out")
            assert 2 == done.returncode
            line = f"coordinator: --workers: {node.address}: replica 1: {reason}"
            assert line == done.stderr.strip().splitlines()[-1]
        finally:
            node.stop()


def test_a_replica_that_never_lasts_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five processes that crash while they load, then none: exit 1 with the last words of each replica.

    A sitecustomize that raises in replicas alone stands for whatever ends them.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if 'TOKENFLEET_NODE_PID' in os.environ:\n"
        "    print('no such kernel', flush=True)\n"
        "    os._exit(7)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(fleet, "VLLM_CPU_ENV", os.environ)
    with node_of(FAST_NODE, tmp_path) as node:
        assert 1 == node.process.wait(WAIT_S)
    log = node.log.read_text()
    assert 10 == log.count(": process ")
    reason = "given up after 5 processes, the last: exit code 7: no such kernel"
    assert f"engine died: replica 0: {reason}; replica 1: {reason}" in log


def test_a_node_says_why_an_engine_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is what the replica tells of itself, not the last line of its log, which may be anything."""
    noisy = (
        "import os\nend = os._exit\nos._exit = lambda code: print('leaked types', flush=True) or end(code)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(DYING + noisy)
    monkeypatch.setattr(fleet, "VLLM_CPU_ENV", os.environ | {"PYTHONPATH": f"{tmp_path}:{fleet.ROOT}"})
    reason = "exit code 1: engine died: CUDA error: out of memory"
    with node_of(PATIENT_NODE, tmp_path) as node:
        wait_until(lambda: [reason] * 2 == [one.reason for one in info_of(node.address).replicas], node.log)
        assert "[replica 1] leaked types" in node.log.read_text()


def test_flags_that_have_served_once_are_not_bad(tmp_path: Path) -> None:
    """A port taken for a moment after a kill: the replica ends with 2, is tried again and serves."""
    with node_of(PATIENT_NODE, tmp_path) as node, socket.socket() as foreign:
        fleet.wait_serving(node)
        port = info_of(node.address).replicas[1].port
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_until(lambda: kills_and_binds(node, foreign, port), node.log)
        foreign.listen()
        taken = f"--port: cannot listen on 127.0.0.1:{port}, is it in use?"
        # By two processes, so the first of them was not the last.
        wait_until(lambda: node.log.read_text().count(f"exit code 2: {taken}; restarting") >= 2, node.log)
        foreign.close()
        wait_until(lambda: states_of(node.address) == ["READY"] * 3, node.log)


def kills_and_binds(node: fleet.WorkerProcess, sock: socket.socket, port: int) -> bool:
    """Kill the second replica and take its port, unless the next process was faster."""
    if pid := info_of(node.address).replicas[1].pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def descriptors(pid: int) -> set[int]:
    """List what a process has open, less what it opens for a moment."""
    readings = []
    for _ in range(5):
        readings.append({int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir()})
        time.sleep(0.013)
    return set.intersection(*readings)


def test_a_replica_that_cannot_be_started_is_tried_again(
    tmp_path: Path, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors, at each of those that a start takes: no try leaks any, then all serve again.

    No try leaves a directory either.
    """
    monkeypatch.setattr(fleet, "VLLM_CPU_ENV", os.environ | {"TMPDIR": str(memory_path)})
    with node_of(PATIENT_NODE, tmp_path) as node:
        fleet.wait_serving(node)
        log, pid = node.log, node.process.pid
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        before = descriptors(pid)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
        os.kill(int(re.findall(r"replica 1: process ([0-9]+)", log.read_text())[-1]), signal.SIGKILL)
        words = "replica 1: cannot be started: [Errno 24] Too many open files"
        wait_until(lambda: words in log.read_text(), log)
        used = descriptors(pid)
        free = (number for number in itertools.count() if number not in used)
        # Two locks, a socket, a pipe, /dev/null, and subprocess's own pipe.
        for limit in itertools.islice(free, 6):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
            num_tries = log.read_text().count(words)
            wait_until(lambda num=num_tries: log.read_text().count(words) > num + 3, log)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        wait_until(lambda: states_of(node.address) == ["READY"] * 3, log)
        wait_until(lambda: len(descriptors(pid)) <= len(before), log)
        assert [0, 1] == [replica.restarts for replica in info_of(node.address).replicas]
        assert 0 == node.stop()
    assert [] == list(memory_path.glob("tokenfleet-*"))


def test_a_cleaned_temporary_directory_does_not_matter(
    tmp_path: Path, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a node keeps there is removed, and a replica killed: it serves again."""
    # The path of a socket has at most 107 bytes, and pytest's directories may use up most of them.
    directory = memory_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr(fleet, "VLLM_CPU_ENV", os.environ | {"TMPDIR": str(directory)})
    with node_of(PATIENT_NODE, tmp_path) as node:
        fleet.wait_serving(node)
        shutil.rmtree(directory)
        os.kill(info_of(node.address).replicas[0].pid, signal.SIGKILL)
        says = f"replica 0: cannot be started: [Errno 2] No such file or directory: '{directory}/"
        wait_until(lambda: says in node.log.read_text(), node.log)
        assert ["DEGRADED", "READY"] == states_of(node.address)[::2]
        directory.mkdir()
        wait_until(lambda: states_of(node.address) == ["READY"] * 3, node.log)
        assert 0 == node.stop()


def test_a_replica_that_begins_while_its_node_stops_is_stopped_too(tmp_path: Path) -> None:
    """SIGTERM between the start of a process and the node's knowing of it: the node ends with 0 at once."""
    with node_of(STOPPED_NODE, tmp_path) as node:
        assert 0 == node.process.wait(WAIT_S)
        assert "SIGKILL" not in node.log.read_text()
