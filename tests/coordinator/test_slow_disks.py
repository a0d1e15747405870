"""A slow or hanging file system of the output directory: waits are bounded, nothing is half-written."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fleet
from tests.coordinator.test_broken_runs import (
    BUSY_TIMEOUT_S,
    PROMPTS,
    Started,
    check_freed,
    load_of,
    wait_busy,
)
from tests.forked import main_of

SHORT_PROMPTS = [[3, 7, i] for i in range(10)]
# A coordinator with a fault: the received answers are flushed each second, and the file system is as told.
WITH_FAULT = """
import os, sys, time
import coordinator.run, coordinator.scheduling.event_loop
from common import standard_streams
from common.standard_streams import leave
from coordinator.__main__ import main
from coordinator.recording import final_table, progress, run_dir
from coordinator.recording.run_dir import RunDir
coordinator.scheduling.event_loop.BEATS_PER_FLUSH = 1

def slow(function, delay_s):
    return lambda *args: (time.sleep(delay_s), function(*args))[1]

def held(function, mark):
    def wait_for_end_of_mark(*args):
        open(mark, "w").close()
        while os.path.exists(mark):
            time.sleep(0.01)
        return function(*args)
    return wait_for_end_of_mark

{fault}
leave(main(sys.argv[1:]))
"""
# The waits for stderr and stdout, 5 s and 10 s in a command.
IMPATIENT = "standard_streams.DRAIN_TIMEOUT_S = final_table.SHOW_TIMEOUT_S = 0.5"
SLOW = {
    "before-the-workers": "RunDir._make = slow(RunDir._make, 3)",
    "with-the-workers": "RunDir._begin = slow(RunDir._begin, 3)",
}
HANG = 3600


def start(worker: fleet.WorkerProcess, directory: Path, fault: str, *flags: str) -> Started:
    """Start a coordinator with a fault."""
    data = fleet.write_prompts(directory / "data.parquet", SHORT_PROMPTS)
    words = ["--accuracy", "--max-new-tokens", "8", *flags]
    argv = fleet.coordinator_flags([worker], data, directory / "out", *words)
    return Started(argv, directory, main_of(WITH_FAULT.format(fault=fault)))


def finish(run: Started) -> tuple[int, str]:
    """Wait for the end of a coordinator, which may take the imports' time and that of a slow disk."""
    try:
        return run.end()
    finally:
        run.process.kill()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.WorkerProcess]:
    """Run one worker for all tests."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 1) as (started,):
        yield started


@pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW)
def test_a_slow_output_directory_only_delays_a_run(
    worker: fleet.WorkerProcess, tmp_path: Path, fault: str
) -> None:
    """A stall of 3 s, longer than the flush interval, before or after the streams are open: complete."""
    code, log = finish(start(worker, tmp_path, fault))
    assert (0, False) == (code, "Traceback" in log), log
    assert "NOT_GRADED" == fleet.run_json(tmp_path / "out" / "offline" / "accuracy")["verdict"]["outcome"]


def test_an_output_directory_that_does_not_answer_is_bad_input(
    worker: fleet.WorkerProcess, tmp_path: Path
) -> None:
    """After the bound, exit code 2 and one line that names the directory and the bound."""
    fault = f"RunDir._make = slow(RunDir._make, {HANG}); run_dir.PREPARE_TIMEOUT_S = 1"
    code, log = finish(start(worker, tmp_path, fault))
    directory = tmp_path / "out" / "offline" / "accuracy"
    line = f"coordinator: --output-dir: cannot write {directory}: no answer within 1 s\n"
    assert (2, line) == (code, fleet.without_first_lines(log))
    assert not (tmp_path / "out").exists()


def test_a_signal_while_the_output_directory_is_slow_leaves_nothing(
    worker: fleet.WorkerProcess, tmp_path: Path
) -> None:
    """Ctrl-C within a stall: exit code 130, one line, no directory and no hidden one."""
    mark = tmp_path / "making"
    run = start(worker, tmp_path, f"RunDir._make = held(RunDir._make, {str(mark)!r})")
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    while not mark.exists():
        assert time.monotonic() < deadline_s, run.log.read_text()
        time.sleep(0.01)
    run.process.send_signal(signal.SIGINT)
    mark.unlink()
    code, log = finish(run)
    assert (130, "coordinator: interrupted by SIGINT") == (code, log.splitlines()[-1]), log
    assert not (tmp_path / "out").exists()


def test_a_log_that_cannot_be_read_does_not_hold_up_a_run(
    worker: fleet.WorkerProcess, tmp_path: Path
) -> None:
    """The main thread reads no file during the test: after a read that hangs the run is VALID."""
    fault = f"coordinator.run.generated_samples = slow(None, {HANG}); progress.LINE_INTERVAL_S = 0.0"
    code, log = finish(start(worker, tmp_path, fault))
    assert (0, False) == (code, "Traceback" in log), log


def test_logs_that_do_not_answer_fail_the_run(worker: fleet.WorkerProcess, memory_path: Path) -> None:
    """A verdict that cannot be read in time is no verdict: exit code 1, and the reason names the bound."""
    fault = f"coordinator.run.verdict.judge = slow(None, {HANG})"
    code, log = finish(start(worker, memory_path, fault, "--log-stall-timeout-s", "2"))
    assert (1, True) == (code, "no answer within 2 s" in log), log


# LoadGen's accuracy log leads to a pipe that holds 4 KiB and that nobody reads: its writes hang.
PIPE_LOG = """
import fcntl, os
begin = RunDir._begin
def with_pipe(self, record):
    begin(self, record)
    path = self.path / "rejected_mlperf_log_accuracy.json"
    os.mkfifo(path)
    fcntl.fcntl(os.open(path, os.O_RDONLY | os.O_NONBLOCK), fcntl.F_SETPIPE_SZ, 4096)
RunDir._begin = with_pipe
"""
# 40 answers of 2,000 tokens, 8 hexadecimal digits each: 640 KB, more than LoadGen buffers.
LOGGED_PROMPTS = [[2000, 7, i] for i in range(40)]


def start_with_stuck_log(worker: fleet.WorkerProcess, directory: Path, *flags: str) -> Started:
    """Start a coordinator whose LoadGen cannot write its accuracy log."""
    data = fleet.write_prompts(directory / "data.parquet", LOGGED_PROMPTS)
    words = ["--accuracy", "--ungraded", "--max-new-tokens", "2000", *flags]
    argv = fleet.coordinator_flags([worker], data, directory / "out", *words)
    return Started(argv, directory, main_of(WITH_FAULT.format(fault=PIPE_LOG)))


def test_log_that_stops_growing_ends_the_run(worker: fleet.WorkerProcess, memory_path: Path) -> None:
    """LoadGen's write hangs: exit code 1 with the bound, the answers are kept, and the worker is free."""
    code, log = finish(start_with_stuck_log(worker, memory_path, "--log-stall-timeout-s", "2"))
    directory = memory_path / "out" / "offline" / "accuracy"
    reason = f"{directory}: the logs do not grow for 2 s after the last completion (--log-stall-timeout-s)"
    assert (1, False) == (code, "Traceback" in log), log
    verdict = fleet.run_json(directory)["verdict"]
    assert ("FAILED", reason) == (verdict["outcome"], verdict["reason"])
    assert f"{directory / 'partial_outputs.parquet'} holds 40 complete" in log
    check_freed(worker)


def test_signal_ends_a_run_whose_log_is_stuck(worker: fleet.WorkerProcess, tmp_path: Path) -> None:
    """SIGTERM while LoadGen's write hangs: exit code 143 before that is a stall, and the worker is free."""
    run = start_with_stuck_log(worker, tmp_path)
    try:
        wait_busy([worker], run)
        wait_without_requests(worker, run)
        run.process.terminate()
        code, log = run.end()
    finally:
        run.process.kill()
    assert (143, False) == (code, "Traceback" in log), log
    check_freed(worker)


def wait_without_requests(worker: fleet.WorkerProcess, run: Started) -> None:
    """Wait until a worker has no requests left, while its run goes on."""
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    while load_of(worker).running:
        assert run.process.poll() is None, run.log.read_text()
        assert time.monotonic() < deadline_s, run.log.read_text()
        time.sleep(0.05)


def test_output_that_nobody_reads_stops_no_run(worker: fleet.WorkerProcess, tmp_path: Path) -> None:
    """Stdout and stderr are a full pipe whose reader is stopped: the run is complete, exit code 0."""
    data = fleet.write_prompts(tmp_path / "data.parquet", SHORT_PROMPTS)
    words = ["--accuracy", "--ungraded", "--max-new-tokens", "8"]
    argv = fleet.coordinator_flags([worker], data, tmp_path / "out", *words)
    command = [sys.executable, "-c", WITH_FAULT.format(fault=IMPATIENT), *argv]
    with fleet.full_pipe() as output:
        process = subprocess.Popen(command, cwd=fleet.ROOT, stdout=output, stderr=output)
        try:
            assert 0 == process.wait(240)
        finally:
            process.kill()
    assert "NOT_GRADED" == fleet.run_json(tmp_path / "out" / "offline" / "accuracy")["verdict"]["outcome"]


def test_refused_workers_leave_an_earlier_run_alone(tmp_path: Path) -> None:
    """A run with --overwrite that a worker refuses: exit code 2, the earlier run's files are unchanged."""
    earlier = tmp_path / "out" / "offline" / "accuracy"
    earlier.mkdir(parents=True)
    contents = {"user.conf": "", "run.json": '{"run_id": "offline-accuracy-0"}', "outputs.arrows": "answers"}
    for name, content in contents.items():
        (earlier / name).write_text(content)
    with fleet.workers(tmp_path, 1, "--step-ms", "20") as (held,):
        data = fleet.write_prompts(tmp_path / "long.parquet", PROMPTS)
        holder = Started(
            fleet.coordinator_flags([held], data, tmp_path / "holder", "--max-new-tokens", "3000"), tmp_path
        )
        try:
            deadline_s = time.monotonic() + BUSY_TIMEOUT_S
            while not (tmp_path / "holder" / "offline" / "performance" / "run.json").exists():
                assert time.monotonic() < deadline_s, holder.log.read_text()
                time.sleep(0.05)
            (tmp_path / "second").mkdir()
            words = ["--accuracy", "--max-new-tokens", "8", "--overwrite"]
            argv = fleet.coordinator_flags([held], data, tmp_path / "out", *words)
            code, log = finish(Started(argv, tmp_path / "second"))
        finally:
            holder.process.kill()
            holder.process.wait(60)
    # What makes it no submission run is said first.
    lines = [line for line in log.splitlines() if " WARNING coordinator.pre_run_checks: " not in line]
    assert (2, 1) == (code, len(lines)), log
    assert ["accuracy"] == [path.name for path in earlier.parent.iterdir()]
    assert contents == {path.name: path.read_text() for path in earlier.iterdir()}


# Prints the threads that are left when bad input has been reported.
LIST_THREADS = """
import sys, threading
from coordinator.__main__ import main
code = main(sys.argv[1:])
print(sorted(thread.name for thread in threading.enumerate() if thread.name in ("event loop", "outputs")))
sys.exit(code)
"""


def test_a_run_that_is_refused_leaves_no_thread(worker: fleet.WorkerProcess, tmp_path: Path) -> None:
    """Prompts beyond the vocabulary are bad input; the thread of the event loop has ended by then."""
    data = fleet.write_prompts(tmp_path / "data.parquet", [[3, 7, 10**9]])
    argv = fleet.coordinator_flags([worker], data, tmp_path / "out", "--accuracy")
    run = Started(argv, tmp_path, main_of(LIST_THREADS))
    code, log = finish(run)
    assert (2, "[]") == (code, log.splitlines()[-1]), log
