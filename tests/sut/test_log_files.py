"""LoadGen's logs have a name that a submission checker reads only if the verdict accepts the run."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sut.log_files import LOADGEN_PREFIX, NAMES, accept, find_log, reject
from sut.results.verdict import Outcome, exit_code
from sut.settings import Mode, Scenario
from tests import fleet
from tests.forked import completed, main_of
from tests.sut.real_loadgen import CONF, run_loadgen

ACCEPTED = {"mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json"}
REJECTED = {f"rejected_{name}" for name in ACCEPTED}
# Ends its process between LoadGen's end and the verdict, as the kernel does when memory runs out.
KILLED_BEFORE_VERDICT = """
import os, signal, sys
from sut.results import verdict
verdict.judge = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""
# The disk fails after the first of the logs has got its accepted name.
FAILS_WHILE_ACCEPTING = """
import sys
from sut import log_files
def accept(log_dir):
    name = log_files.NAMES[0]
    (log_dir / f"rejected_{name}").rename(log_dir / name)
    raise OSError(5, "Input/output error")
log_files.accept = accept
"""
RUN = """
from coordinator.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def names(directory: Path) -> set[str]:
    """List LoadGen's logs in a directory, without the empty trace."""
    return {path.name for path in directory.glob("*mlperf_log_*")} - {
        "mlperf_log_trace.json",
        "rejected_mlperf_log_trace.json",
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[fleet.WorkerProcess]]:
    """Run two counting workers for all tests of this file."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 2) as started:
        yield started


def write_inputs(directory: Path) -> tuple[Path, list[str]]:
    """Write the data set of a short Offline run, and compose the flags that make it right."""
    data = fleet.write_prompts(directory / "data.parquet", [[3, 7, 1000 * i] for i in range(10)])
    conf = fleet.write_conf(directory / "user.conf", "*.Offline.min_duration = 0\n")
    return data, ["--user-conf", str(conf), "--max-new-tokens", "8"]


@pytest.mark.parametrize("mode", list(Mode))
def test_loadgen_itself_writes_rejected_names(tmp_path: Path, mode: Mode) -> None:
    """LoadGen creates its files as rejected ones, so that none has to be renamed when a run ends badly."""
    run_loadgen(CONF, Scenario.OFFLINE, mode, tmp_path)
    assert names(tmp_path) == REJECTED


def test_logs_are_found_under_either_name(tmp_path: Path) -> None:
    """Accepting renames every log, rejecting renames them back, and both leave a missing log alone."""
    for name in NAMES[:3]:
        (tmp_path / f"{LOADGEN_PREFIX}{name.removeprefix('mlperf_log_')}").write_text(name)
    assert list(NAMES[:3]) == [find_log(tmp_path, name).read_text() for name in NAMES[:3]]
    accept(tmp_path)
    assert names(tmp_path) == ACCEPTED
    assert list(NAMES[:3]) == [find_log(tmp_path, name).read_text() for name in NAMES[:3]]
    (tmp_path / NAMES[0]).unlink()
    reject(tmp_path)
    assert names(tmp_path) == REJECTED - {"rejected_mlperf_log_summary.txt"}


def test_only_a_verdict_of_a_right_run_accepts() -> None:
    """VALID and NOT_GRADED are accepted and exit with 0; no other outcome is accepted."""
    assert {Outcome.VALID, Outcome.NOT_GRADED} == {outcome for outcome in Outcome if outcome.accepted}
    assert (0, 0) == (exit_code(Outcome.VALID), exit_code(Outcome.NOT_GRADED))


@pytest.mark.parametrize("scenario", ["offline", "server"])
@pytest.mark.parametrize("mode", ["performance", "accuracy"])
def test_an_invalid_run_leaves_no_accepted_name(
    two: list[fleet.WorkerProcess], tmp_path: Path, scenario: str, mode: str
) -> None:
    """INVALID in either mode and scenario, by LoadGen or by an answer of one token: all logs are rejected.

    The official checker reads an Offline log without its result_validity, so an INVALID one would pass.
    """
    data = fleet.write_prompts(tmp_path / "data.parquet", [[1, 7, 5], [3, 7, 1000]])
    words = ["--scenario", scenario, "--max-new-tokens", "8"]
    text = "*.Server.min_duration = 10\n*.Server.target_qps = 100\n"
    conf = fleet.write_conf(tmp_path / "user.conf", text)
    words += ["--user-conf", str(conf), *(["--accuracy"] if mode == "accuracy" else [])]
    done = fleet.coordinate(two, data, tmp_path / "out", *words)
    assert 3 == done.returncode, done.stderr
    run_dir = tmp_path / "out" / scenario / mode
    assert ("INVALID", REJECTED) == (fleet.run_json(run_dir)["verdict"]["outcome"], names(run_dir))


@pytest.mark.parametrize(("mode", "outcome"), [("performance", "VALID"), ("accuracy", "NOT_GRADED")])
def test_a_right_run_has_the_accepted_names(
    two: list[fleet.WorkerProcess], tmp_path: Path, mode: str, outcome: str
) -> None:
    """VALID, or NOT_GRADED in accuracy mode: exit code 0 and accepted names."""
    data, flags = write_inputs(tmp_path)
    flags += ["--accuracy"] if mode == "accuracy" else []
    done = fleet.coordinate(two, data, tmp_path / "out", *flags)
    assert 0 == done.returncode, done.stderr
    run_dir = tmp_path / "out" / "offline" / mode
    verdict = fleet.run_json(run_dir)["verdict"]
    assert (outcome, ACCEPTED) == (verdict["outcome"], names(run_dir))
    assert f"== offline {mode}: {outcome} ==" in done.stdout
    graded_by = "complete, not graded: eval_mlperf_accuracy.py grades the answers"
    assert (graded_by if mode == "accuracy" else "") == verdict["reason"]


@pytest.mark.parametrize(
    ("program", "code", "outcome"),
    [(KILLED_BEFORE_VERDICT, -signal.SIGKILL, "UNFINISHED"), (FAILS_WHILE_ACCEPTING, 1, "FAILED")],
    ids=["killed", "disk"],
)
def test_a_process_that_ends_badly_after_loadgen_leaves_no_accepted_name(
    two: list[fleet.WorkerProcess], tmp_path: Path, program: str, code: int, outcome: str
) -> None:
    """Killed before the verdict, or with a disk that fails while logs are accepted: all logs are rejected."""
    data, flags = write_inputs(tmp_path)
    argv = fleet.coordinator_flags(two, data, tmp_path / "out", *flags)
    done = completed(main_of(program + RUN), argv)
    assert code == done.returncode, done.stderr
    run_dir = tmp_path / "out" / "offline" / "performance"
    assert (outcome, REJECTED) == (fleet.run_json(run_dir)["verdict"]["outcome"], names(run_dir))
    # LoadGen itself had called the run VALID.
    assert "Result is : VALID" in find_log(run_dir, "mlperf_log_summary.txt").read_text()
