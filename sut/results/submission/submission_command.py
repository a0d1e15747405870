"""`tokenfleet submission`: check the runs of a submission and lay out its tree.

Exit codes: 0 the tree is laid out; 1 it is, and the official checker refuses it; 2 bad input, or runs that
cannot be submitted: nothing is written.
"""

import sys
from collections.abc import Iterable

from common.command_exit import BAD_INPUT, end_command, run_command
from common.text import print_table, printable
from sut.results.submission.official_checker import CheckerResult, run_checker
from sut.results.submission.preparation import Preparation, prepare
from sut.results.submission.submission_flags import SubmissionFlags, parse
from sut.results.submission.tree import Submission, lay_out

NAME = "tokenfleet submission"
REFUSED_BY_CHECKER = 1
_MAX_LINE_LEN = 1000


def main(argv: list[str]) -> int:
    """Run the command and return the exit code."""
    return run_command(NAME, _submit, argv)


def _submit(argv: list[str]) -> int:
    flags = parse(argv)
    prepared = prepare(flags)
    _tell("rehearsal: accepted", prepared.accepted)
    if prepared.submission is None:
        return _refuse(prepared)
    lay_out(prepared.submission, flags.output, flags.originals)
    _tell("draft: empty", prepared.missing)
    return _show(flags, prepared.submission)


def _refuse(prepared: Preparation) -> int:
    """Name each fault and everything that is missing, one line each."""
    _tell("fault", prepared.faults)
    _tell("missing", prepared.missing)
    counts = f"{len(prepared.faults)} faults, {len(prepared.missing)} things missing"
    return end_command(NAME, f"nothing was written: {counts}", BAD_INPUT)


def _tell(label: str, lines: Iterable[object]) -> None:
    for line in lines:
        sys.stderr.write(f"{NAME}: {label}: {printable(str(line), _MAX_LINE_LEN)}\n")


def _show(flags: SubmissionFlags, submission: Submission) -> int:
    """Print what was laid out, and what the official checker says to it."""
    runs = sum(len(by_kind) for by_kind in submission.runs.values())
    lines = [f"{flags.output}: {submission.division} division, {runs} runs, source {submission.commit}"]
    lines += [f"{flags.originals}: whole accuracy logs; keep them until the round is over"]
    results: list[CheckerResult] = []
    if flags.official_checker is not None:
        results = run_checker(flags.official_checker, flags.output, submission.submitter)
    for result in results:
        lines += [f"== {result.name}: exit code {result.code} ==", *result.lines]
    print_table("\n".join(lines))
    return REFUSED_BY_CHECKER if any(result.code for result in results) else 0
