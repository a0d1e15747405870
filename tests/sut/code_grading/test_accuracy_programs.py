"""Rows of LiveCodeBench: their programs are extracted officially, run in the sandbox, and kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from sut.results.accuracy.__main__ import main
from tests.sut.accuracy_files import FINAL, final, write_case

CODE = "livecodebench_v6"
DOUBLE = "print(2 * int(input()))"


def fenced(source: str, language: str = "python") -> str:
    """Write a code block."""
    return f"```{language}\n{source}\n```"


# Question, answer, official verdict, verdict of the second opinion.
ROWS: dict[str, tuple[str, str, bool | None, bool | None]] = {
    "right": ("double", final(fenced(DOUBLE)), True, True),
    "wrong": ("double", final(fenced("print(7)")), False, False),
    "an exception": ("double", final(fenced("raise ValueError")), False, False),
    "the last block": ("double", final(fenced("print(7)") + "so" + fenced(DOUBLE)), True, True),
    "a plain block": ("double", final(fenced(DOUBLE, language="")), True, True),
    "a python block before a plain one": (
        "double",
        final(fenced(DOUBLE) + "prints" + fenced("4", language="")),
        True,
        False,
    ),
    "no block": ("double", final("I cannot"), False, False),
    "an empty block": ("double", final(fenced("")), False, False),
    "a block that is not closed": ("double", final(f"```python\n{DOUBLE}"), False, True),
    "only a draft": ("double", final("See above.", draft=fenced(DOUBLE)), True, False),
    "two final messages": (
        "double",
        f"{FINAL}{fenced('print(7)')}<|return|>{FINAL}{fenced(DOUBLE)}<|return|>",
        False,
        True,
    ),
    "no tests": ("unknown", final(fenced(DOUBLE)), None, None),
}


def flags_of(directory: Path) -> list[str]:
    """Write all files; 2 gives 4, and 5 gives 10."""
    tests = [{"input": "2\n", "output": "4\n"}, {"input": "5\n", "output": "10\n"}]
    path = directory / "tests.jsonl"
    path.write_text(json.dumps({"question_id": "double", "fn_name": None, "tests": tests}) + "\n")
    rows = [(CODE, question, answer) for question, answer, _, _ in ROWS.values()]
    return [*write_case(directory, rows), f"--lcb-tests={path}"]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Score all rows once, without a score."""
    directory = tmp_path_factory.mktemp("programs")
    flags = flags_of(directory)
    assert main(flags) == 1
    return directory, flags


def report_of(directory: Path) -> dict[str, Any]:
    """Read the report."""
    report: dict[str, Any] = json.loads((directory / "accuracy.json").read_text())
    return report


def test_ungraded_rows_are_listed_and_there_is_no_score(scored: tuple[Path, list[str]]) -> None:
    """A question without tests has no verdict: no score and no accuracy.txt; row and reason are listed."""
    directory, _ = scored
    report = report_of(directory)
    assert (None, None) == (report["score_percent"], report["passed"])
    (row,) = report["ungraded"]
    assert (list(ROWS).index("no tests"), CODE) == (row["sample_index"], row["dataset"])
    assert "no such question" in row["reason"]
    assert not (directory / "accuracy.txt").exists()
    assert report["misses"] == {CODE: {"judge failed": 1, "unparsed": 2, "wrong": 4}}


def test_programs_get_the_official_verdict(scored: tuple[Path, list[str]]) -> None:
    """5 of 12 programs are right officially; rows that the second opinion reads differently are listed."""
    report = report_of(scored[0])
    assert report["per_dataset"] == {CODE: {"correct": 5, "total": 12, "repeats": 3, "ungraded": 1}}
    found = {
        row["sample_index"]: (row["official"]["correct"], row["second"]["correct"])
        for row in report["differences"]
    }
    expected = {
        number: (official, second)
        for number, (_, _, official, second) in enumerate(ROWS.values())
        if official is not second
    }
    assert found == expected


def test_a_damaged_file_of_tests_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The line names the file and its line; exit code 2, and no report is written."""
    flags = flags_of(tmp_path)
    (tmp_path / "tests.jsonl").write_text("{}\n")
    assert main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"accuracy: --lcb-tests {tmp_path / 'tests.jsonl'}: line 1 is no question")
    assert not (tmp_path / "accuracy.json").exists()


def test_graded_programs_are_kept(scored: tuple[Path, list[str]]) -> None:
    """A second evaluation runs no graded program again; --allow-ungraded counts the others as wrong."""
    directory, flags = scored
    kept = (directory / "grading.jsonl").read_text()
    assert main([*flags, "--overwrite", "--allow-ungraded"]) == 3
    assert kept == (directory / "grading.jsonl").read_text()
    # 5 of 12.
    assert (directory / "accuracy.txt").read_text().endswith("\n'exact_match': 41.667\n")
