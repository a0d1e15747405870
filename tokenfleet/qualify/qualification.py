"""The result of a qualification: a table of checks for people, and the same as JSON."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from common.atomic_files import replace_files
from common.text import printable

RESULT_NAME = "qualify.json"
FORMAT = 1
MAX_SEEN_LEN = 600


class Assessment(StrEnum):
    """Result of one check."""

    PASS = "pass"
    FAIL = "FAIL"
    UNKNOWN = "unknown"
    """The check was not made, or its figures decide nothing."""


class CheckResult(NamedTuple):
    """One row of the table."""

    check: str
    assessment: Assessment
    seen: str
    advice: str = ""
    """What to do; empty if nothing."""


def layout_results(results: Sequence[CheckResult]) -> str:
    """Format the table as plain text: one line for each check, followed by its advice."""
    width = max(len(result.check) for result in results)
    lines = []
    for result in results:
        seen = printable(result.seen, MAX_SEEN_LEN)
        lines.append(f"{result.assessment:<7}  {result.check:<{width}}  {seen}")
        if result.advice:
            lines.append(f"         {'':<{width}}  -> {result.advice}")
    counts = Counter(result.assessment for result in results)
    lines.append(", ".join(f"{counts[assessment]} {assessment}" for assessment in Assessment))
    return "\n".join(lines)


def qualification_exit_code(results: Sequence[CheckResult]) -> int:
    """Return 1 if a check failed, else 0."""
    return int(any(result.assessment is Assessment.FAIL for result in results))


def write_result(path: Path, results: Sequence[CheckResult], measured: Mapping[str, object]) -> None:
    """Write the checks and what was measured as JSON, whole or not at all.

    Args:
        path: The file.
        results: All rows of the table.
        measured: Answers, grades and engines, for a comparison with a later qualification.

    Raises:
        OSError: The file cannot be written.
    """
    rows = [result._asdict() for result in results]
    content = {"format": FORMAT, "checks": rows, **measured}
    replace_files(path.parent, {path.name: json.dumps(content) + "\n"})
