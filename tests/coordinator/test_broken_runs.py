"""A run that cannot go on ends at once, says why, and leaves nothing that could pass for a result."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import pyarrow.parquet as pq
import pytest

from coordinator.__main__ import main
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from sut.log_files import ACCURACY, NAMES, SUMMARY, find_log
from tests import fleet
from tests.forked import ForkedProcess, Main

# Each answer takes 3,000 steps of 20 ms: no run of this file ends by itself.
PROMPTS = [[3000, 7, 1000 * i] for i in range(40)]
FAIL = ("--on-worker-loss", "fail")
# They catch a run that hangs; a busy machine may need seconds for what takes a fraction of one.
BUSY_TIMEOUT_S = 60.0
END_TIMEOUT_S = 60.0
COORDINATOR = (sys.executable, "-m", "coordinator")


class Started:
    """A coordinator that runs: a main, which is forked, or a command to which its flags are appended."""

    def __init__(self, argv: list[str], directory: Path, program: Main | Sequence[str] = main) -> None:
        self.log = directory / "coordinator.log"
        self.run_dir = directory / "out"
        self.process: ForkedProcess | subprocess.Popen[bytes]
        if callable(program):
            self.process = ForkedProcess(program, argv, self.log)
            return
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [*program, *argv], cwd=fleet.ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def end(self, timeout_s: float = END_TIMEOUT_S) -> tuple[int, str]:
        """Wait for the end, and return exit code and log."""
        code = self.process.wait(timeout_s)
        return code, self.log.read_text()


@contextmanager
def coordinator(
    started: list[fleet.WorkerProcess],
    directory: Path,
    prompts: list[list[int]],
    *flags: str,
    program: Main | Sequence[str] = main,
) -> Iterator[Started]:
    """Start a coordinator; it is killed if it outlives the block."""
    data = fleet.write_prompts(directory / "data.parquet", prompts)
    conf = fleet.write_conf(directory / "user.conf")
    words = ["--user-conf", str(conf), "--max-new-tokens", "3000", *flags]
    run = Started(fleet.coordinator_flags(started, data, directory / "out", *words), directory, program)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.wait(END_TIMEOUT_S)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[fleet.WorkerProcess]]:
    """Run two workers that outlive their runs."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 2, "--step-ms", "20") as started:
        yield started


def load_of(worker: fleet.WorkerProcess) -> pb.WorkerLoad:
    """Ask a worker what it is doing."""
    with grpc.insecure_channel(worker.address) as channel:
        return rpc.WorkerStub(channel).GetLoad(pb.GetLoadRequest(), timeout=60)


def wait_busy(started: list[fleet.WorkerProcess], run: Started, num_tokens: int = 1) -> None:
    """Wait until every worker has requests and has produced some tokens."""
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    while any(load.produced_tokens < num_tokens or not load.running for load in map(load_of, started)):
        assert run.process.poll() is None, run.log.read_text()
        assert time.monotonic() < deadline_s, run.log.read_text()
        time.sleep(0.05)


def wait_handling(run: Started, signum: signal.Signals) -> None:
    """Wait until a coordinator has a handler for a signal: SigCgt in /proc/PID/status, proc(5)."""
    status = Path(f"/proc/{run.process.pid}/status")
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    while not int(status.read_text().split("SigCgt:")[1].split()[0], 16) >> (signum - 1) & 1:
        assert time.monotonic() < deadline_s, run.log.read_text()
        time.sleep(0.02)


def check_freed(worker: fleet.WorkerProcess) -> None:
    """Check that a worker serves and that its engine is empty, or soon will be."""
    deadline_s = time.monotonic() + END_TIMEOUT_S
    while not fleet.holds_nothing(load_of(worker)):
        assert time.monotonic() < deadline_s, load_of(worker)
        time.sleep(0.05)
    assert "SERVING" == fleet.health(worker.address)


def check_no_result(run_dir: Path, outcome: str, *says: str) -> None:
    """Check run.json's verdict, and that no log of LoadGen has a name that a checker accepts."""
    verdict: dict[str, object] = fleet.run_json(run_dir)["verdict"]
    assert outcome == verdict["outcome"]
    assert [] == [word for word in says if word not in str(verdict["reason"])], verdict["reason"]
    assert [] == [name for name in NAMES if (run_dir / name).exists()]
    summary = find_log(run_dir, SUMMARY)
    assert not summary.exists() or summary.stat().st_size == 0


@pytest.mark.parametrize("scenario", ["offline", "server"])
def test_killed_worker_ends_the_run_with_its_name(tmp_path: Path, scenario: str) -> None:
    """SIGKILL of one of two workers in mid-run: exit code 1, which one and why; the other one is free."""
    with fleet.workers(tmp_path, 2, "--step-ms", "20") as started:
        flags = ["--scenario", scenario, *FAIL]
        with coordinator(started, tmp_path, PROMPTS, *flags) as run:
            wait_busy(started, run)
            started[1].process.kill()
            code, log = run.end()
        assert (1, False) == (code, "Traceback" in log), log
        check_no_result(
            tmp_path / "out" / scenario / "performance", "FAILED", started[1].address, "UNAVAILABLE"
        )
        check_freed(started[0])


@pytest.mark.parametrize("scenario", ["offline", "server"])
def test_signals_of_one_cause_are_one(two: list[fleet.WorkerProcess], tmp_path: Path, scenario: str) -> None:
    """SIGINT and SIGTERM that come together, as they do to a process that was stopped: orderly, as by one."""
    with coordinator(two, tmp_path, PROMPTS, "--scenario", scenario) as run:
        wait_busy(two, run)
        for signum in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            run.process.send_signal(signum)
        code, log = run.end()
    assert (130, False) == (code, "ignored" in log), log
    run_dir = tmp_path / "out" / scenario / "performance"
    check_no_result(run_dir, "INTERRUPTED", "SIGINT")
    states = pq.read_table(run_dir / "partial_outputs.parquet")["state"].to_pylist()
    # The requests that had finished, with their times.
    assert pq.read_table(run_dir / "requests.parquet").num_rows == states.count("complete")


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGQUIT, 131), (signal.SIGTERM, 143)],
)
def test_signal_interrupts_the_run(
    two: list[fleet.WorkerProcess], tmp_path: Path, signum: signal.Signals, code: int
) -> None:
    """Each signal ends a run with its own exit code, and the workers are free for the next one."""
    with coordinator(two, tmp_path, PROMPTS, "--scenario", "server") as run:
        wait_busy(two, run)
        run.process.send_signal(signum)
        ended, log = run.end()
    assert code == ended, log
    check_no_result(tmp_path / "out" / "server" / "performance", "INTERRUPTED", signum.name)
    for worker in two:
        check_freed(worker)


def test_run_under_nohup_outlives_its_terminal(two: list[fleet.WorkerProcess], tmp_path: Path) -> None:
    """SIGHUP inherited as ignored does not end a run; SIGTERM still does."""
    with coordinator(two, tmp_path, PROMPTS, program=("nohup", *COORDINATOR)) as run:
        wait_busy(two, run)
        run.process.send_signal(signal.SIGHUP)
        wait_busy(two, run, max(load_of(worker).produced_tokens for worker in two) + 20)
        run.process.terminate()
        code, log = run.end()
    assert 143 == code, log
    check_no_result(tmp_path / "out" / "offline" / "performance", "INTERRUPTED", "SIGTERM")


def test_signal_at_the_first_moment_of_a_run_leaves_a_verdict(
    two: list[fleet.WorkerProcess], tmp_path: Path
) -> None:
    """From the moment it has its directory, a run that is interrupted says so in run.json."""
    run_dir = tmp_path / "out" / "offline" / "performance"
    conf = run_dir / "user.conf"  # the first file of a run
    with coordinator(two, tmp_path, PROMPTS) as run:
        deadline_s = time.monotonic() + BUSY_TIMEOUT_S
        while not conf.exists() or not conf.stat().st_size:
            assert time.monotonic() < deadline_s, run.log.read_text()
            time.sleep(0.001)
        run.process.terminate()
        code, log = run.end()
    assert (143, False) == (code, "Traceback" in log), log
    check_no_result(run_dir, "INTERRUPTED", "SIGTERM")


def test_signal_while_workers_load_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while the coordinator waits for its workers: exit code 130 and no directory."""
    loading = fleet.start_worker(tmp_path / "loading.log", "--load-ms", "60000")
    try:
        with coordinator([loading], tmp_path, PROMPTS) as run:
            wait_handling(run, signal.SIGTERM)
            # It handles signals from the moment it has read its flags; now it asks its worker.
            time.sleep(0.5)
            run.process.send_signal(signal.SIGINT)
            code, log = run.end()
            reason = fleet.without_first_lines(log)
            assert (130, "coordinator: interrupted by SIGINT\n") == (code, reason)
    finally:
        loading.stop()
    assert not (tmp_path / "out").exists()


def test_silent_worker_ends_the_run(tmp_path: Path) -> None:
    """A stopped worker (SIGSTOP) is lost after --worker-timeout-s, and no answer is made up for it."""
    prompts = [[2 + i % 2, 7, 1000 * i] for i in range(20)] + PROMPTS
    with fleet.workers(tmp_path, 2, "--step-ms", "20") as started:
        flags = ["--accuracy", "--worker-timeout-s", "2", *FAIL]
        with coordinator(started, tmp_path, prompts, *flags) as run:
            wait_busy(started, run, num_tokens=200)
            os.kill(started[0].process.pid, signal.SIGSTOP)
            code, log = run.end()
        started[0].process.kill()
    assert (1, False) == (code, "Traceback" in log), log
    run_dir = tmp_path / "out" / "offline" / "accuracy"
    check_no_result(run_dir, "FAILED", started[0].address, "silent for 2 s")
    # The process ended under LoadGen, so its log ends where it was last written.
    for line in find_log(run_dir, ACCURACY).read_text().splitlines():
        if line.startswith("{") and line.rstrip(",").endswith("}"):
            entry = json.loads(line.rstrip(","))
            assert fleet.counting_answer(prompts[entry["qsl_idx"]], 3000) == fleet.tokens_of(entry["data"])


def test_stalled_worker_ends_the_run(tmp_path: Path) -> None:
    """A worker that answers pings but brings no token is lost after --stall-timeout-s."""
    with fleet.workers(tmp_path, 1, "--step-ms", "600000") as started:
        with coordinator(started, tmp_path, PROMPTS, "--stall-timeout-s", "2", *FAIL) as run:
            code, log = run.end()
        assert (1, False) == (code, "Traceback" in log), log
        check_no_result(
            tmp_path / "out" / "offline" / "performance", "FAILED", started[0].address, "no token for 2 s"
        )
        check_freed(started[0])


def test_run_directory_that_vanished_does_not_hold_the_exit(
    two: list[fleet.WorkerProcess], tmp_path: Path
) -> None:
    """Where run.json cannot be written, an interrupted run still ends with its exit code."""
    with coordinator(two, tmp_path, PROMPTS) as run:
        wait_busy(two, run)
        (tmp_path / "out" / "offline" / "performance").rename(tmp_path / "elsewhere")
        run.process.terminate()
        code, log = run.end()
    assert 143 == code, log
    for worker in two:
        check_freed(worker)


def test_closed_output_does_not_change_the_exit_code(two: list[fleet.WorkerProcess], tmp_path: Path) -> None:
    """A complete run whose standard output nobody reads is still complete."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7, i] for i in range(10)])
    command = fleet.coordinator_command(two, data, tmp_path / "out", "--accuracy", "--max-new-tokens", "8")
    run = subprocess.Popen(command, cwd=fleet.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stdout is not None
    run.stdout.close()
    assert run.stderr is not None
    with run.stderr:
        errors = run.stderr.read()
    assert (0, False) == (run.wait(END_TIMEOUT_S), "Traceback" in errors), errors


def test_full_output_does_not_change_the_exit_code(two: list[fleet.WorkerProcess], tmp_path: Path) -> None:
    """A complete run whose table finds no space is still complete: the record is on disk, a line says why."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7, i] for i in range(10)])
    command = fleet.coordinator_command(two, data, tmp_path / "out", "--accuracy", "--max-new-tokens", "8")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command,
            cwd=fleet.ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=BUSY_TIMEOUT_S + END_TIMEOUT_S,
            check=False,
        )
    assert 0 == done.returncode, done.stderr
    assert "NOT_GRADED" == fleet.run_json(tmp_path / "out" / "offline" / "accuracy")["verdict"]["outcome"]
    (line,) = [line for line in done.stderr.splitlines() if "No space left on device" in line]
    assert "run.json" in line
    assert "Traceback" not in done.stderr


def test_a_run_that_has_lost_its_percentile_ends_as_failed(
    two: list[fleet.WorkerProcess], tmp_path: Path
) -> None:
    """With --max-over-latency the run ends when more queries are over, and run.json has the counts."""
    conf = tmp_path / "limits.conf"
    conf.write_text(f"{fleet.FAST_CONF}gpt-oss-120b.Server.ttft_latency = 1\n")
    flags = ("--scenario", "server", "--max-over-latency", "3", "--user-conf", str(conf))
    with coordinator(two, tmp_path, PROMPTS, *flags) as run:
        code, log = run.end()
    assert (1, True) == (code, "over 1 ms TTFT, more than --max-over-latency 3" in log), log
    run_dir = run.run_dir / "server" / "performance"
    record = fleet.run_json(run_dir)
    assert "FAILED" == record["verdict"]["outcome"]
    over = record["over_latency"]
    assert over["num_ttft"] > over["bound"] == 3
    assert (1_000_000, 80_000_000, 0) == (over["ttft_limit_ns"], over["tpot_limit_ns"], over["num_tpot"])
    assert not any((run_dir / name).exists() for name in NAMES)
