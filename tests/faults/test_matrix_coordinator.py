"""Coordinator faults: killed, stopped, interrupted, disk full; its workers are free afterwards."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import runs
from tests.faults.crew import addresses_of, check_free, crew, wait_until
from tests.faults.hosts import sh
from tests.faults.moments import in_decode, seats
from tests.faults.table import Table

STEP = ("--step-ms", "5", "--max-num-seqs")
# An interrupted user waits at most this long.
INTERRUPT_TIMEOUT_S = 10.0


@pytest.mark.parametrize("mode", runs.modes("offline"))
def test_killed_coordinator_frees_its_workers(tmp_path: Path, mode: str) -> None:
    """After kill -9 of the coordinator its workers are SERVING and empty, and the next run is exact."""
    with crew(tmp_path, 2, *STEP, seats(mode)) as members:
        first, second = tmp_path / "first", tmp_path / "second"
        first.mkdir()
        second.mkdir()
        with runs.started(first, mode, addresses_of(members), runs.make_prompts()) as run:
            in_decode(members)
            run.process.kill()
            check_free(members)
        runs.check_no_summary(run)
        prompts = runs.make_prompts(40, longest=100)
        with runs.started(second, mode, addresses_of(members), prompts) as run:
            runs.check_valid(run)


@pytest.mark.long
@pytest.mark.parametrize("mode", runs.MODES)
def test_stopped_coordinator(tmp_path: Path, table: Table, mode: str) -> None:
    """Workers of a stopped coordinator are free after their limit; after SIGCONT it uses them again."""
    flags = ("--coordinator-timeout-s", "2", *STEP, seats(mode))
    with crew(tmp_path, 2, *flags) as members:
        with runs.started(tmp_path, mode, addresses_of(members), runs.make_prompts()) as run:
            in_decode(members)
            injected_ns = time.monotonic_ns()
            run.process.send_signal(signal.SIGSTOP)
            check_free(members)
            run.process.send_signal(signal.SIGCONT)
            found = runs.check_valid(run)
        table.add("SIGSTOP of the coordinator, workers' limit 2 s", run, 0, injected_ns)
        assert [2, 2] == [worker["streams"] for worker in found["summary"]["workers"]]
        check_free(members)


@pytest.mark.long
@pytest.mark.parametrize("mode", runs.MODES)
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_with_a_stopped_worker(
    tmp_path: Path, table: Table, mode: str, signum: signal.Signals, code: int
) -> None:
    """A signal ends the run within 10 s although one worker does not react; the other one is empty."""
    with crew(tmp_path, 2, *STEP, seats(mode)) as members:
        with runs.started(tmp_path, mode, addresses_of(members), runs.make_prompts()) as run:
            in_decode(members).freeze()
            run.process.send_signal(signum)
            runs.check_failed(run, signum.name, code=code, timeout_s=INTERRUPT_TIMEOUT_S)
        table.add(f"{signum.name} while one worker is stopped", run, code)
        check_free(members[1:])
        members[0].thaw()
        check_free(members)


@pytest.mark.long
@pytest.mark.parametrize("mode", runs.MODES)
def test_second_interrupt_is_immediate(tmp_path: Path, mode: str) -> None:
    """A second Ctrl-C ends an interrupted run at once, without a traceback; workers are free."""
    with crew(tmp_path, 2, *STEP, seats(mode)) as members:
        with runs.started(tmp_path, mode, addresses_of(members), runs.make_prompts()) as run:
            in_decode(members).freeze()
            run.process.send_signal(signal.SIGINT)
            wait_until(lambda: "INTERRUPTED" in run.text or run.process.poll() is not None, "the first one")
            run.process.send_signal(signal.SIGINT)
            # 130: the first one was done already.
            assert run.end(INTERRUPT_TIMEOUT_S) in (130, -signal.SIGINT)
            assert "Traceback" not in run.text
        members[0].thaw()
        check_free(members)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[None]:
    """Mount a file system with 128 kB more than a run sets aside; skips where that is not permitted."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    directory = tmp_path / "out"
    directory.mkdir()
    try:
        sh("mount", "-t", "tmpfs", "-o", "size=1152k", "tmpfs", str(directory))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no tmpfs to be had here: {error.stderr.strip()}")
    try:
        yield
    finally:
        sh("umount", str(directory))


@pytest.mark.long
@pytest.mark.usefixtures("small_disk")
@pytest.mark.parametrize("mode", runs.MODES)
def test_full_disk(tmp_path: Path, table: Table, mode: str) -> None:
    """A full disk ends the run with exit code 1; run.json still has the reason, and workers are free."""
    with crew(tmp_path, 2, *STEP, seats(mode)) as members:
        # 4 bytes a token for us, 8 characters for LoadGen: more than there is.
        prompts = runs.make_prompts(140)
        with runs.started(tmp_path, mode, addresses_of(members), prompts) as run:
            assert 1 == run.end(), run.text[-4000:]
        table.add("disk full", run, 1)
        verdict = run.json["verdict"]
        assert ("FAILED", True) == (verdict["outcome"], "No space left" in verdict["reason"]), verdict
        runs.check_no_summary(run)
        check_free(members)
