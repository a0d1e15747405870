"""An accuracy run and TEST07 are scored at their end: over a counting worker, with a byte-level tokenizer."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from common.signals import SIGNALS, Interrupted, Interrupts
from coordinator import run_grading
from coordinator.config import parse
from coordinator.run_grading import GradingTask, RunGrading
from sut.results.verdict import Outcome, Verdict
from tests import fleet
from tests.sut.accuracy_files import write_tokenizer


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.WorkerProcess]:
    """Run a counting worker for all tests of this file."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 1) as started:
        yield started[0]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the tests that score a run one output directory: --overwrite replaces a scored run."""
    return tmp_path_factory.mktemp("scored")


def run(worker: fleet.WorkerProcess, directory: Path, truths: str, *flags: str) -> tuple[int, dict[str, Any]]:
    """Run accuracy, or TEST07 by its flags, over questions; returns exit code and verdict.

    The answers are A, B, C, D, A, ...
    The counting engine answers the prompt [2, n] with n + 1 and the stop id: 65 is the byte A.
    """
    prompts = [[2, 64 + row % 4] for row in range(len(truths))]
    columns = {"tok_input": prompts, "dataset": "gpqa_diamond", "ground_truth": list(truths)}
    data = directory / "data.parquet"
    pd.DataFrame(columns).to_parquet(data)
    tokenizer = directory / "tokenizer"
    if not tokenizer.exists():
        write_tokenizer(tokenizer)
    words = ["--overwrite", f"--tokenizer={tokenizer}", "--max-new-tokens=8", *(flags or ("--accuracy",))]
    done = fleet.coordinate([worker], data, directory / "out", *words)
    kind = "TEST07" if flags else "accuracy"
    verdict: dict[str, Any] = fleet.run_json(directory / "out" / "offline" / kind)["verdict"]
    return done.returncode, verdict


def files(directory: Path) -> set[str]:
    """List the files of the run that a checker or an evaluation reads."""
    found = (directory / "out" / "offline" / "accuracy").iterdir()
    return {path.name for path in found if "accuracy" in path.name}


def test_a_run_whose_answers_are_right_is_valid(worker: fleet.WorkerProcess, directory: Path) -> None:
    """5 of 6 answers, 83.3 %, reach the target: VALID, exit code 0."""
    code, verdict = run(worker, directory, "ABCDAA")
    assert (0, "VALID", "") == (code, verdict["outcome"], verdict["reason"])
    (check,) = [check for check in verdict["checks"] if check["name"] == "accuracy"]
    assert (True, "score 83.3333, at least 82.2987 needed") == (check["passed"], check["seen"])
    assert {"mlperf_log_accuracy.json", "accuracy.txt", "accuracy.json"} == files(directory)
    text = (directory / "out" / "offline" / "accuracy" / "accuracy.txt").read_text()
    assert text.endswith("\n'exact_match': 83.333\n")


def test_a_run_below_the_target_is_invalid(worker: fleet.WorkerProcess, directory: Path) -> None:
    """4 of 6 right: INVALID with the score, exit code 3, and no file that a submission checker reads."""
    code, verdict = run(worker, directory, "ABCDDD")
    reason = "accuracy: score 66.6667, at least 82.2987 needed"
    assert (3, "INVALID", reason) == (code, verdict["outcome"], verdict["reason"])
    assert {"rejected_mlperf_log_accuracy.json", "accuracy.json"} == files(directory)
    report = json.loads((directory / "out" / "offline" / "accuracy" / "accuracy.json").read_text())
    assert (False, 4) == (report["passed"], report["per_dataset"]["gpqa_diamond"]["correct"])


def test_a_run_that_cannot_be_scored_is_not_graded(worker: fleet.WorkerProcess, tmp_path: Path) -> None:
    """A damaged tokenizer: the run stays NOT_GRADED with a reason, exit code 0, and keeps its log."""
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    code, verdict = run(worker, tmp_path, "ABCD")
    reason = "complete, not graded: scoring ended with exit code 2; `tokenfleet accuracy` scores the log"
    assert (0, "NOT_GRADED", reason) == (code, verdict["outcome"], verdict["reason"])
    assert {"mlperf_log_accuracy.json"} == files(tmp_path)


@pytest.mark.parametrize(
    "num_right, outcome, score",
    # 601 of 990 is 60.707 %, 600 is 60.606 %.
    [(601, "VALID", "60.7071"), (600, "INVALID", "60.6061")],
)
def test_a_run_of_test07_is_decided_by_its_score(
    worker: fleet.WorkerProcess, directory: Path, num_right: int, outcome: str, score: str
) -> None:
    """60.698 % are needed; the file for the checker and compliance.json have the same verdict as run.json."""
    passed = outcome == "VALID"
    truths = "".join("ABCD"[(row + (row >= num_right)) % 4] for row in range(990))
    code, verdict = run(worker, directory, truths, "--compliance=TEST07")
    assert (0 if passed else 3, outcome) == (code, verdict["outcome"])
    (check,) = [check for check in verdict["checks"] if check["name"] == "accuracy"]
    assert f"score {score}, at least 60.698 needed" == check["seen"]
    run_dir = directory / "out" / "offline" / "TEST07"
    assert ("TEST PASS" if passed else "TEST FAIL") == (
        run_dir / "verify_accuracy.txt"
    ).read_text().splitlines()[-1]
    assert passed is json.loads((run_dir / "compliance.json").read_text())["passed"]
    assert passed is (run_dir / "accuracy.txt").exists()


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    """Handle signals as the coordinator does, during one test."""
    handlers = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield Interrupts()
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def graded(directory: Path, interrupts: Interrupts) -> None:
    """Score a complete run that nothing ends."""
    words = ["--accuracy", "--tokenizer=t", "--input-file=d", "--workers=a:1"]
    record = SimpleNamespace(verdict=Verdict(Outcome.NOT_GRADED, ""))
    run_dir = SimpleNamespace(path=directory)
    RunGrading(parse(words), None, run_dir, SimpleNamespace(), interrupts).grade(record)


def test_a_signal_ends_the_scoring(
    tmp_path: Path, interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator held signals while it stored the verdict; during the scoring it is interrupted."""
    task = GradingTask("tests.coordinator.endless", [], decides=True)
    monkeypatch.setattr(run_grading, "grading_task", lambda *_: task)
    interrupts.hold()
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    with pytest.raises(Interrupted):
        graded(tmp_path, interrupts)
    timer.join()


def test_a_signal_that_was_held_prevents_the_scoring(tmp_path: Path, interrupts: Interrupts) -> None:
    """A signal between the end of the run and the scoring takes effect before a process starts."""
    interrupts.hold()
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        graded(tmp_path, interrupts)
