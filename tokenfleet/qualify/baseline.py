"""The result of an earlier qualification, with which a later one is compared."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from common.bounded_file import read_bounded
from common.flags import FlagError
from common.json_document import parse_json
from tokenfleet.qualify.graded_rows import check_graded_baseline
from tokenfleet.qualify.greedy_checks import check_greedy_baseline, engine_differences, entry_differences
from tokenfleet.qualify.qualification import FORMAT, RESULT_NAME, CheckResult

BASELINE_FLAG = "--baseline"
MAX_RESULT_BYTES = 256 << 20


class Measured(NamedTuple):
    """What two qualifications are compared by; empty where a check was not made."""

    engine: Mapping[str, object]
    """The first worker's answer to GetInfo."""
    prompts: list[list[int]]
    answers: list[list[int]]
    """Greedy answers to the prompts."""
    graded_rows: list[int]
    """Row numbers in the accuracy data."""
    accuracy_sha256: str
    """Hash of the file of these rows."""
    right: list[bool | None]
    """Official verdicts on these rows; None: not graded."""
    graded_with: Mapping[str, object] = {}
    """What decides these verdicts beside the engine, by name; empty in older results."""


def read_baseline(directory: Path) -> Measured:
    """Read the result of an earlier qualification.

    Raises:
        FlagError: Names the file and what is wrong in it.
    """
    path = directory / RESULT_NAME
    try:
        content = parse_json(read_bounded(path, MAX_RESULT_BYTES))
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"format is not {FORMAT}")
        return _checked(Measured(**content["measured"]))
    except OSError as error:
        raise FlagError(BASELINE_FLAG, str(error.strerror), path) from error
    except (ValueError, TypeError, KeyError) as error:
        raise FlagError(BASELINE_FLAG, f"was not written by `tokenfleet qualify`: {error}", path) from error


def _checked(measured: Measured) -> Measured:
    """Check the types of what is compared.

    Raises:
        ValueError: Names the entry.
    """
    if not isinstance(measured.engine, Mapping) or not isinstance(measured.graded_with, Mapping):
        raise ValueError("engine or graded_with is not an object")
    for name in ("prompts", "answers"):
        rows = getattr(measured, name)
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            raise ValueError(f"{name} is not a list of lists")
    if not isinstance(measured.right, list) or set(measured.right) - {True, False, None}:
        raise ValueError("right is not a list of verdicts")
    return measured


def compare_with_baseline(baseline: Measured, measured: Measured) -> Iterator[CheckResult]:
    """Compare what both qualifications measured with the same prompts and rows.

    Raises:
        FlagError: They have neither the same prompts nor the same rows.
    """
    execution = (found.engine.get("execution_facts") for found in (baseline, measured))
    changes = [*engine_differences(baseline.engine, measured.engine), *entry_differences(*execution)]
    has_answers = bool(baseline.answers and measured.answers) and baseline.prompts == measured.prompts
    has_grades = bool(baseline.right and measured.right) and _draw(baseline) == _draw(measured)
    if not has_answers and not has_grades:
        raise FlagError(BASELINE_FLAG, "has neither the same greedy prompts nor the same graded rows")
    if has_answers:
        yield check_greedy_baseline(baseline.answers, measured.answers, changes)
    if has_grades:
        if baseline.graded_with:
            changes += entry_differences(baseline.graded_with, measured.graded_with)
        yield check_graded_baseline(baseline.right, measured.right, changes)


def _draw(measured: Measured) -> tuple[str, list[int], int]:
    return measured.accuracy_sha256, measured.graded_rows, len(measured.right)
