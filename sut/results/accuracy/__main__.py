"""`tokenfleet accuracy` scores an accuracy log.

Exit codes: 0 the score reaches the target, 1 rows are not graded, 2 bad input, 3 the score is below the
target; interrupted: 129 SIGHUP, 130 SIGINT, 131 SIGQUIT, 143 SIGTERM.
"""

import logging
import sys

from common.command_exit import end_command, run_command
from common.flags import FlagError
from common.named_refusals import naming_output
from common.signals import Interrupts
from common.text import print_table
from sut.log_files import REJECTED_PREFIX
from sut.results.accuracy.accuracy_inputs import read_inputs
from sut.results.accuracy.accuracy_report import write_report
from sut.results.accuracy.config import parse
from sut.results.accuracy.log_entries import LogError
from sut.results.code_grading.program import GradingLogError, QuestionFileError, SandboxUnavailableError

PASSED, NOT_SCORED, BELOW_TARGET = 0, 1, 3
"""Exit codes."""


def main(argv: list[str]) -> int:
    """Score one log and return the exit code."""
    return run_command("accuracy", _score, argv)


def _score(argv: list[str]) -> int:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    Interrupts()
    config = parse(argv)
    scorer = read_inputs(config)
    try:
        with naming_output("--output-dir", config.report_dir):
            report = scorer.score()
    except LogError as error:
        raise FlagError("--mlperf-log", str(error), config.mlperf_log) from error
    except QuestionFileError as error:
        raise FlagError("--lcb-tests", str(error), config.lcb_tests) from error
    except GradingLogError as error:
        raise FlagError("--output-dir", str(error), config.report_dir) from error
    except SandboxUnavailableError as error:
        reason = f"{'fails' if config.unsandboxed else 'is missing, and the sandbox fails'}: {error}"
        raise FlagError("--unsandboxed", reason) from error
    has_score = not report.ungraded or config.allow_ungraded
    # Only a complete run that its verdict accepted may leave what a submission checker reads.
    rejected = config.mlperf_log.name.startswith(REJECTED_PREFIX) or config.max_samples is not None
    with naming_output("--output-dir", config.report_dir):
        write_report(report, config.report_dir, has_score=has_score, has_text=has_score and not rejected)
    print_table(report.to_table(has_score=has_score))
    if not has_score:
        reason = (
            f"no score: {len(report.ungraded)} rows are not graded (--allow-ungraded counts them as wrong)"
        )
        return end_command("accuracy", reason, NOT_SCORED)
    return PASSED if report.passed else BELOW_TARGET


if __name__ == "__main__":
    # Program name in the usage line.
    sys.argv[0] = "python -m sut.results.accuracy"
    sys.exit(main(sys.argv[1:]))
