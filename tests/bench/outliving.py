"""Helpers for tests of benchmark processes: which run, and who started them."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.fleet import ROOT
from tests.forked import completed_command


def children(parent: int) -> list[int]:
    """List the child processes of a process."""
    task = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in task.read_text().split()]


def runs(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(claim: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """Wait until a condition is true; fail the test at the deadline."""
    deadline_s = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def check_takes_all_along(module_argv: list[str], num: int, tmpdir: Path, signum: signal.Signals) -> None:
    """Start a benchmark, signal it once it has `num` children, and check that no child outlives it."""
    process = subprocess.Popen(
        [sys.executable, "-m", *module_argv],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        env={"TMPDIR": str(tmpdir), "PATH": ""},
    )
    try:
        wait_until(lambda: len(children(process.pid)) == num)
        started = children(process.pid)
        process.send_signal(signum)
        assert (130 if signum == signal.SIGINT else -signum) == process.wait(60)
        wait_until(lambda: not any(map(runs, started)))
    finally:
        process.kill()
        process.wait(60)


def run_bench(module_argv: list[str], timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a benchmark to its end and return its result."""
    return completed_command([sys.executable, "-m", *module_argv], timeout_s)


def accuracy_log(answers: list[list[int]]) -> str:
    """Return an accuracy log with the answers of samples 0, 1, ..., one line each, as LoadGen writes it."""
    entries = [
        {"qsl_idx": sample, "data": np.array(answer, "<i4").tobytes().hex(), "token_count": len(answer)}
        for sample, answer in enumerate(answers)
    ]
    return "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n"
