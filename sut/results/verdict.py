"""The verdict on a run: LoadGen's result plus checks that LoadGen does not make."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from sut.benchmark import BENCHMARK
from sut.log_files import ACCURACY, DETAIL, find_log
from sut.results import checks
from sut.results.checks import Counts, VerdictCheck
from sut.results.deviations import Setup, deviations
from sut.results.logs import AccuracyLog, DetailLog, read_accuracy, read_detail
from sut.results.telemetry import Telemetry


class Outcome(StrEnum):
    """How a run ended."""

    UNFINISHED = "UNFINISHED"
    """The run is in progress, or the coordinator's process ended without a verdict."""
    VALID = "VALID"
    NOT_GRADED = "NOT_GRADED"
    """All checks passed, but only a script that grades the answers decides: an accuracy run, or TEST07."""
    INVALID = "INVALID"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"

    @property
    def accepted(self) -> bool:
        """Whether LoadGen's logs get the names that a submission checker reads."""
        return self in (Outcome.VALID, Outcome.NOT_GRADED)


COMPLETE = (Outcome.VALID, Outcome.NOT_GRADED, Outcome.INVALID)
"""Outcomes of a run whose test has ended, whatever the checks say."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a run and its reasons."""

    outcome: Outcome
    reason: str
    """Empty if the outcome is VALID; if it is NOT_GRADED, what grades the answers."""
    checks: tuple[VerdictCheck, ...] = ()
    deviations: tuple[str, ...] = ()
    """Differences from the settings of a submission; they do not make the run INVALID."""

    @classmethod
    def of(cls, made: list[VerdictCheck], setup: Setup, deviating: list[str]) -> "Verdict":
        """Return the verdict on a completed run from its checks."""
        if failed := [f"{check.name}: {check.seen}" for check in made if not check.passed]:
            outcome, reason = Outcome.INVALID, "; ".join(failed)
        elif setup.grader is not None:
            outcome, reason = Outcome.NOT_GRADED, f"complete, not graded: {setup.grader} grades the answers"
        else:
            outcome, reason = Outcome.VALID, ""
        return cls(outcome, reason, tuple(made), tuple(deviating))

    def graded(self, check: VerdictCheck) -> "Verdict":
        """Return the verdict on a run of outcome NOT_GRADED after its answers were scored."""
        outcome = Outcome.VALID if check.passed else Outcome.INVALID
        reason = "" if check.passed else f"{check.name}: {check.seen}"
        return replace(self, outcome=outcome, reason=reason, checks=(*self.checks, check))

    def not_graded(self, reason: str) -> "Verdict":
        """Return the verdict on a run of outcome NOT_GRADED whose answers could not be scored."""
        return replace(self, reason=f"complete, not graded: {reason}")


def judge(log_dir: Path, setup: Setup, counts: Counts, telemetry: Telemetry) -> tuple[Verdict, DetailLog]:
    """Check a run that LoadGen has completed.

    Args:
        log_dir: LoadGen's output directory.
        setup: Flags, files and workers of the run.
        counts: The coordinator's counts.
        telemetry: Pauses and clock of the coordinator during StartTest.

    Returns:
        The verdict and LoadGen's detail log.
    """
    detail = read_detail(find_log(log_dir, DETAIL))
    accuracy = read_accuracy(find_log(log_dir, ACCURACY))
    complete = setup.accuracy or detail.logs_every_answer
    made = [
        *([] if setup.accuracy else [checks.loadgen_result(detail)]),
        checks.loadgen_errors(detail, setup.accuracy),
        checks.completion(counts),
        checks.tokens(counts),
        checks.loadgen_tokens(detail, setup.scenario, counts),
        checks.accuracy_log(accuracy, counts.reported_tokens if complete else None),
        *_coverage(detail, accuracy, setup, counts),
        *_output_length(accuracy, setup),
        checks.degenerate_answers(counts, setup),
        checks.configuration(counts),
        checks.equal_execution(counts),
        checks.worker_warnings(counts),
        checks.compiled_kernels(counts),
        checks.continuation(counts),
        checks.short_answers(counts),
        checks.pauses(telemetry),
        checks.clock(telemetry),
    ]
    return Verdict.of(made, setup, deviations(detail, setup)), detail


def _coverage(detail: DetailLog, accuracy: AccuracyLog, setup: Setup, counts: Counts) -> list[VerdictCheck]:
    if setup.accuracy:
        return [checks.accuracy_coverage(accuracy, min(setup.num_samples, BENCHMARK.accuracy_sample_count))]
    issued = checks.coverage(detail, setup.num_samples, counts)
    if setup.compliance_test is None and not detail.logs_every_answer:
        return [issued]
    return [issued, checks.logged_samples(detail, setup.num_samples, accuracy)]


def _output_length(accuracy: AccuracyLog, setup: Setup) -> list[VerdictCheck]:
    """Decide a compliance test that bounds the mean answer length, TEST09."""
    bounds = None if setup.compliance_test is None else setup.compliance_test.mean_answer_len
    return [] if bounds is None else [checks.output_length(accuracy, bounds)]


def exit_code(outcome: Outcome) -> int:
    """Return the exit code of a run that was not interrupted."""
    return {Outcome.VALID: 0, Outcome.NOT_GRADED: 0, Outcome.FAILED: 1, Outcome.INVALID: 3}[outcome]


COMPLETE_CODES = frozenset(map(exit_code, COMPLETE))
"""Exit codes of a run whose test has ended, whatever the checks say."""
