"""Network division: LoadGen's node and the SUT are two processes with one sample in each message."""

import contextlib
import csv
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import pytest

from coordinator.config import parse
from coordinator.scheduling.event_loop import network_name
from coordinator.scheduling.network_audit import NetworkAudit
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import FrameError, TokenColumns
from tests import fleet
from tests.faults import runs
from tests.forked import end_of
from tokenfleet.network.fleet_engine import facts_of_all
from tokenfleet.network.sut_program import main

NUM_PROMPTS = 60
BUDGET = 32


class NetworkSut(NamedTuple):
    """A Network SUT and the workers behind it."""

    front: fleet.WorkerProcess
    workers: list[fleet.WorkerProcess]


@contextlib.contextmanager
def network_sut(directory: Path, *flags: str, num_workers: int = 2) -> Iterator[NetworkSut]:
    """Serve counting workers as one Network SUT for a block."""
    with fleet.workers(directory, num_workers, *flags) as workers:
        addresses = ",".join(worker.address for worker in workers)
        port, log = fleet.free_port(), directory / "sut.log"
        own = ["--workers", addresses, "--port", str(port), "--no-worker-timeout-s", "2"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tokenfleet", "network-sut", *own],
                cwd=fleet.ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        front = fleet.WorkerProcess(process, f"127.0.0.1:{port}", log)
        try:
            fleet.wait_serving(front)
            yield NetworkSut(front, workers)
        finally:
            front.stop()


def test_a_fact_of_any_worker_behind_the_sut_is_told() -> None:
    """What one worker of two has set stands beside the other's: LoadGen's node sees no worker but the SUT."""
    facts = {"device": '"cpu"', "SGLANG_SIMULATE_ACC_LEN": '"3"'}
    infos = [pb.WorkerInfo(execution_facts={"device": '"cpu"'}), pb.WorkerInfo(execution_facts=facts)]
    simulated = 'the default | "3"'
    assert {"device": '"cpu"', "SGLANG_SIMULATE_ACC_LEN": simulated, "num_workers": "2"} == facts_of_all(
        infos
    )


def test_a_warning_of_the_workers_is_one_of_the_sut(tmp_path: Path) -> None:
    """LoadGen's node shows it; the line names the workers."""
    flags = ("--max-num-seqs", "63", "--prefill-group-tokens", "100")
    with network_sut(tmp_path, *flags) as started, grpc.insecure_channel(started.front.address) as channel:
        info = rpc.WorkerStub(channel).GetInfo(pb.GetInfoRequest(), timeout=60)
        place = f"2 workers, first {started.workers[0].address}"
    says = "--prefill-group-tokens 100: no effect: with 63 sequences each prompt is a group"
    assert [f"{place}: {says}"] == list(info.warnings)


@pytest.fixture(scope="module")
def sut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkSut]:
    """Serve two workers for all tests that leave them alive."""
    with network_sut(tmp_path_factory.mktemp("sut"), "--step-ms", "1") as started:
        yield started


def test_output_that_nobody_reads_stops_no_sut(tmp_path: Path) -> None:
    """Stdout and stderr are a full pipe whose reader is stopped: it serves a run and stops, exit code 0."""
    with fleet.workers(tmp_path, 1) as workers, fleet.full_pipe() as output:
        port = fleet.free_port()
        words = ["network-sut", "--workers", workers[0].address, "--port", str(port)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tokenfleet", *words], cwd=fleet.ROOT, stdout=output, stderr=output
        )
        front = fleet.WorkerProcess(process, f"127.0.0.1:{port}", tmp_path / "log")
        try:
            deadline_s = time.monotonic() + 60
            while fleet.health(front.address, timeout_s=2) != "SERVING" and time.monotonic() < deadline_s:
                time.sleep(0.05)
            done = run(front, tmp_path, "offline")
            assert 0 == done.returncode, done.stderr
            process.terminate()
            assert 0 == process.wait(60)
        finally:
            process.kill()
            process.wait(60)
    check_answers(tmp_path / "out" / "offline" / "accuracy")


def run(
    address: fleet.WorkerProcess, directory: Path, scenario: str, *flags: str
) -> "subprocess.CompletedProcess[str]":
    """Run LoadGen's node to its end."""
    directory.mkdir(exist_ok=True)
    data = fleet.write_prompts(directory / "data.parquet", fleet.counting_prompts(NUM_PROMPTS))
    conf = fleet.write_conf(directory / "user.conf")
    own = ["--network-sut", "--scenario", scenario, "--accuracy", "--ungraded", "--user-conf", str(conf)]
    own += ["--max-new-tokens", str(BUDGET), *flags]
    return fleet.coordinate([address], data, directory / "out", *own)


@contextlib.contextmanager
def killed_when_busy(worker: fleet.WorkerProcess, victim: fleet.WorkerProcess) -> Iterator[None]:
    """Kill a process during a block, once the worker has requests; the test fails if it never has any."""

    def kill() -> None:
        deadline_s = time.monotonic() + 60
        with grpc.insecure_channel(worker.address) as channel:
            load = rpc.WorkerStub(channel).GetLoad
            while load(pb.GetLoadRequest(), timeout=60).running == 0 and time.monotonic() < deadline_s:
                time.sleep(0.05)
        victim.process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    thread.join(60)
    assert victim.process.wait(60) == -signal.SIGKILL


def check_answers(run_dir: Path) -> None:
    """Every answer of the log is the counting engine's, by its definition."""
    prompts = fleet.counting_prompts(NUM_PROMPTS)
    found = {
        int(str(entry["qsl_idx"])): fleet.tokens_of(str(entry["data"]))
        for entry in fleet.accuracy_entries(run_dir)
    }
    assert dict(enumerate(fleet.counting_answer(prompt, BUDGET) for prompt in prompts)) == found


def audit_of(run_dir: Path) -> list[dict[str, str]]:
    """Read the record of messages."""
    with (run_dir / "network_audit.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("scenario", ["server", "offline"])
def test_every_message_has_one_sample_and_every_answer_is_exact(
    sut: NetworkSut, tmp_path: Path, scenario: str
) -> None:
    """60 prompts are 60 messages out; a first token and the rest of an answer are two messages back."""
    done = run(sut.front, tmp_path, scenario)
    assert 0 == done.returncode, done.stderr
    run_dir = tmp_path / "out" / scenario / "accuracy"
    check_answers(run_dir)
    audit = audit_of(run_dir)
    assert {"1"} == {row["samples"] for row in audit}
    assert {"sent": 60, "received": 120} == Counter(row["direction"] for row in audit)
    sent = [int(row["tokens"]) for row in audit if row["direction"] == "sent"]
    assert [3] * NUM_PROMPTS == sent


def test_the_name_has_every_machine_once(sut: NetworkSut, tmp_path: Path) -> None:
    """LoadGen's log has the name of the SUT, with the machine of both workers."""
    done = run(sut.front, tmp_path, "server")
    assert 0 == done.returncode, done.stderr
    (log,) = (tmp_path / "out" / "server" / "accuracy").glob("*mlperf_log_detail.txt")
    assert f'"key": "sut_name", "value": "Network SUT: {socket.gethostname()}"' in log.read_text()
    assert "Network SUT: a, b" == network_name(["a", "b", "a"])


def test_a_worker_that_dies_is_the_suts_matter(tmp_path: Path) -> None:
    """A worker killed during the run: its requests continue inside the SUT, and LoadGen sees no loss."""
    with network_sut(tmp_path, "--step-ms", "40") as started:
        with killed_when_busy(started.workers[0], started.workers[0]):
            done = run(started.front, tmp_path / "run", "offline")
        assert 0 == done.returncode, done.stderr
    assert "requests continue on other workers" in started.front.log.read_text()
    run_dir = tmp_path / "run" / "out" / "offline" / "accuracy"
    check_answers(run_dir)
    assert 60 == sum(row["direction"] == "sent" for row in audit_of(run_dir))
    assert [] == fleet.run_json(run_dir)["summary"]["losses"]


def test_a_worker_that_is_gone_at_the_end_fails_no_performance_run(tmp_path: Path) -> None:
    """LoadGen asks for the SUT's name again after the test; it is the one that every worker was asked for."""
    (tmp_path / "run").mkdir()
    with network_sut(tmp_path, "--step-ms", "5") as started:
        words = (tmp_path / "run", "offline", [started.front.address], runs.make_prompts(), "--network-sut")
        with runs.started(*words) as running, killed_when_busy(started.workers[0], started.workers[0]):
            runs.check_valid(running)


@pytest.mark.long
def test_the_loss_of_the_sut_fails_the_run(tmp_path: Path) -> None:
    """LoadGen's node sends no sample a second time: it ends with exit code 1."""
    with (
        network_sut(tmp_path, "--step-ms", "200") as started,
        killed_when_busy(started.workers[0], started.front),
    ):
        done = run(started.front, tmp_path / "run", "offline")
    assert 1 == done.returncode, done.stderr
    assert "FAILED" == fleet.run_json(tmp_path / "run" / "out" / "offline" / "accuracy")["verdict"]["outcome"]


@pytest.mark.long
def test_a_killed_loadgen_node_leaves_the_sut_ready(tmp_path: Path) -> None:
    """The SUT drops the run of a coordinator that was killed, and serves the next one exactly."""
    with network_sut(tmp_path, "--step-ms", "100") as started:
        data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(NUM_PROMPTS))
        conf = fleet.write_conf(tmp_path / "user.conf")
        flags = ["--network-sut", "--accuracy", "--ungraded", "--user-conf", str(conf)]
        command = fleet.coordinator_command([started.front], data, tmp_path / "killed", *flags)
        with (tmp_path / "killed.log").open("wb") as output:
            process = subprocess.Popen(command, cwd=fleet.ROOT, stdout=output, stderr=output)
        first = fleet.WorkerProcess(process, "", tmp_path / "killed.log")
        with killed_when_busy(started.workers[0], first):
            process.wait(60)
        done = run(started.front, tmp_path / "run", "offline")
        assert 0 == done.returncode, done.stderr
    check_answers(tmp_path / "run" / "out" / "offline" / "accuracy")


@pytest.mark.long
def test_a_sut_without_workers_fails_the_run_and_serves_the_next_one(tmp_path: Path) -> None:
    """No worker is left: LoadGen's node has the reason; with a new worker the SUT serves a run exactly."""
    with network_sut(tmp_path, "--step-ms", "100", num_workers=1) as started:
        (worker,) = started.workers
        with killed_when_busy(worker, worker):
            done = run(started.front, tmp_path / "run", "offline")
        assert 1 == done.returncode, done.stderr
        assert "no worker for" in done.stderr
        again = fleet.start_worker(tmp_path / "again.log", "--step-ms", "1", address=worker.address)
        try:
            fleet.wait_serving(again)
            done = run(started.front, tmp_path / "next", "offline")
        finally:
            again.stop()
        assert 0 == done.returncode, done.stderr
        assert started.front.process.poll() is None
    check_answers(tmp_path / "next" / "out" / "offline" / "accuracy")


def test_a_worker_is_no_network_sut(sut: NetworkSut, tmp_path: Path) -> None:
    """The address of a worker itself: the run fails, because it names no node."""
    done = run(sut.workers[0], tmp_path, "server")
    assert 1 == done.returncode, done.stderr
    assert "no node of the Network SUT has answered (--network-sut)" in done.stderr


def test_a_message_with_two_samples_ends_the_run() -> None:
    """The audit refuses what a Network SUT never sends."""
    columns = TokenColumns(
        requests=np.array([1, 2], np.uint64),
        counts=None,
        tokens=np.array([5, 6], np.int32),
        finished_rows=np.zeros(0, np.uint32),
        finish_reasons=np.zeros(0, np.uint8),
        produced_ns=0,
    )
    with pytest.raises(FrameError, match="a message with 2 samples; a Network SUT sends one"):
        NetworkAudit().add_received(columns)


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--workers=a:1,b:2"], "--network-sut: --workers names 2 addresses, not one"),
        (
            ["--workers=a:1", "--on-overdue-query=continue"],
            "--network-sut: --on-overdue-query continue would send a sample twice",
        ),
    ],
)
def test_flags_that_would_route_or_repeat_are_refused(flags: list[str], line: str) -> None:
    """LoadGen's node has one SUT and sends each sample once."""
    with pytest.raises(ValueError, match=line):
        parse(["--network-sut", "--input-file=x", *flags])


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--listen-tls-cert=x"], "--listen-tls-cert: needs --listen-tls-key too"),
        (["--workers=a"], "--workers: 'a' is not host:port with a port in 1..65535"),
        (
            ["--insecure", "--listen-tls-ca=x"],
            "--insecure: means plaintext, but a --listen-tls flag is given",
        ),
        (["--listen-tls-ca=x"], "--listen-tls-ca: x: No such file"),
        (["--listen-run-token-file=x"], "--listen-run-token-file: x"),
        (["--tls-ca=x"], "--tls-ca: x"),
        (
            ["--host=0.0.0.0"],
            "--host: '0.0.0.0' is not a loopback address: give --listen-tls-cert and --listen-tls-key, or",
        ),
    ],
)
def test_bad_flags_are_one_line(tmp_path: Path, flags: list[str], line: str) -> None:
    """The line names the flag as it was given, exit code 2."""
    done = end_of(main, ["--workers=127.0.0.1:1", f"--port={fleet.free_port()}", *flags], tmp_path)
    last = done.stderr.splitlines()[-1]
    assert (2, True) == (done.code, last.startswith(f"network-sut: {line}")), done.stderr
