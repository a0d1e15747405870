"""Answers without information make a graded run INVALID: real runs over two counting workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fleet

# The counting engine's answer follows from the first and the last token of a prompt: all 40 are equal.
PROMPTS = [[20, 7 + i, 5] for i in range(40)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[fleet.WorkerProcess]]:
    """Run two counting workers for all tests of this file."""
    with fleet.workers(tmp_path_factory.mktemp("fleet"), 2) as started:
        yield started


def run(two: list[fleet.WorkerProcess], directory: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    """Run Offline over the prompts; returns the exit code and the verdict."""
    data = fleet.write_prompts(directory / "data.parquet", PROMPTS)
    conf = fleet.write_conf(directory / "user.conf", "*.Offline.min_duration = 0\n")
    words = ["--user-conf", str(conf), "--max-new-tokens", "32", *flags]
    done = fleet.coordinate(two, data, directory / "out", *words)
    (record,) = (directory / "out" / "offline").glob("*/run.json")
    verdict: dict[str, Any] = fleet.run_json(record.parent)["verdict"]
    return done.returncode, verdict


def check_of(verdict: dict[str, Any]) -> dict[str, Any]:
    """Find the check of degenerate answers."""
    (found,) = [check for check in verdict["checks"] if check["name"] == "degenerate_answers"]
    assert isinstance(found, dict)
    return found


SEEN = "0 of 40 answers repeat one token, 39 equal the answer to another prompt, bound 0.4 each"


def test_equal_answers_make_an_accuracy_run_invalid(two: list[fleet.WorkerProcess], tmp_path: Path) -> None:
    """40 equal answers to 40 prompts: 39 equal an earlier one; INVALID with that reason, exit code 3."""
    code, verdict = run(two, tmp_path, "--accuracy")
    assert (3, "INVALID") == (code, verdict["outcome"])
    assert f"degenerate_answers: {SEEN}" == verdict["reason"]


@pytest.mark.parametrize(
    ("flags", "outcome"), [(["--accuracy", "--random-weights"], "NOT_GRADED"), ([], "VALID")]
)
def test_equal_answers_are_a_warning_elsewhere(
    two: list[fleet.WorkerProcess], tmp_path: Path, flags: list[str], outcome: str
) -> None:
    """With --random-weights, and in a performance run, the same answers are a warning, exit code 0."""
    code, verdict = run(two, tmp_path, *flags)
    assert (0, outcome) == (code, verdict["outcome"])
    assert (True, True, SEEN) == tuple(check_of(verdict)[key] for key in ("passed", "warning", "seen"))
    marked = [text for text in verdict["deviations"] if text.startswith("--random-weights")]
    assert bool(flags) == bool(marked)
