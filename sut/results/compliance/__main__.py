"""`tokenfleet compliance` decides the compliance test of a run.

Exit codes: 0 passed, 2 bad input, 3 not passed.
"""

import logging
import sys

from common.command_exit import run_command
from common.text import print_table
from sut.results.compliance.compliance_run import decide_run
from sut.results.compliance.compliance_verdict import ComplianceVerdict
from sut.results.compliance.config import parse

PASSED, NOT_PASSED = 0, 3
"""Exit codes."""


def main(argv: list[str]) -> int:
    """Decide one test and return the exit code."""
    return run_command("compliance", _decide, argv)


def _decide(argv: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    verdict = decide_run(*parse(argv))
    print_table(_table(verdict))
    return PASSED if verdict.passed else NOT_PASSED


def _table(verdict: ComplianceVerdict) -> str:
    kind = "score" if verdict.test.mean_answer_len is None else "mean answer length"
    value = "none" if verdict.value is None else f"{verdict.value:.3f}"
    low, high = verdict.bounds
    return "\n".join(
        [
            f"{verdict.test.name}: {'passed' if verdict.passed else 'not passed'}",
            f"   {kind} {value}, bounds {low} to {high}",
            f"   {verdict.num_samples} of {verdict.test.num_samples} samples in the log",
            *[f"   reason: {reason}" for reason in verdict.reasons],
        ]
    )


if __name__ == "__main__":
    # Program name in the usage line.
    sys.argv[0] = "python -m sut.results.compliance"
    sys.exit(main(sys.argv[1:]))
