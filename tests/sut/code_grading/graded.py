"""Files of tests and programs for the tests of code grading."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sut.results.code_grading.grader import grade_programs
from sut.results.code_grading.program import GradingOptions, Program, ProgramLimits, ProgramVerdict

LIMITS = ProgramLimits(
    test_timeout_s=60.0, memory_bytes=768 << 20, output_bytes=1 << 20, disk_bytes=16 << 20, num_threads=64
)
"""Small limits, so that reaching them takes little time, but for the time: a busy machine needs some.

The import of pandas with pyarrow 26 takes 370 MB of address space.
"""
SHORT_LIMITS = replace(LIMITS, test_timeout_s=2.0)
"""For programs that use up their time; one test on stdin ends after 7 s at the latest."""


def question(question_id: str, fn_name: str | None, *tests: tuple[str, str]) -> str:
    """Compose one line of a file of tests."""
    cases = [{"input": given, "output": expected} for given, expected in tests]
    return json.dumps({"question_id": question_id, "fn_name": fn_name, "tests": cases}) + "\n"


def verdicts(
    folder: Path, programs: Iterable[tuple[str, str]], tests: str, options: GradingOptions | None = None
) -> list[ProgramVerdict]:
    """Grade programs, each a question's id and a source; verdicts in the order of the programs."""
    path = folder / "tests.jsonl"
    path.write_text(tests)
    rows = [Program(row, *program) for row, program in enumerate(programs)]
    options = options or GradingOptions(4, limits=LIMITS)
    return sorted(grade_programs(rows, path, folder / "grading.jsonl", options))


def outcomes(folder: Path, programs: Iterable[tuple[str, str]], tests: str) -> list[str]:
    """Grade programs; only their outcomes."""
    return [verdict.outcome.value for verdict in verdicts(folder, programs, tests)]
