"""Grade programs in parallel, and keep each verdict in a log so that grading resumes."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from sut.results.code_grading.program import GradingOptions, Program, ProgramVerdict


def grade_programs(
    programs: Iterable[Program], tests: Path, grading_log: Path, options: GradingOptions
) -> Iterator[ProgramVerdict]:
    """Grade programs against the tests of their questions.

    Args:
        programs: Programs, read as they are needed.
        tests: File of tests.
        grading_log: Verdicts of this and earlier calls, one JSON object a line.
        options: How programs are run.

    Returns:
        One verdict for each program, in the order in which they are reached.

    Raises:
        GradingError: The file of tests cannot be read, or programs cannot be run in a sandbox.
    """
    raise NotImplementedError
