"""The verdict on a run: LoadGen's result plus checks that LoadGen does not make."""

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sut.benchmark import BENCHMARK
from sut.results import checks
from sut.results.checks import Counts, Telemetry, VerdictCheck
from sut.results.deviations import Setup, deviations
from sut.results.logs import AccuracyLog, DetailLog, read_accuracy, read_detail
from sut.settings import Mode

_SUMMARY = "mlperf_log_summary.txt"
_DETAIL = "mlperf_log_detail.txt"
_ACCURACY = "mlperf_log_accuracy.json"
REJECTED_PREFIX = "rejected_"


class Outcome(StrEnum):
    """How a run ended."""

    UNFINISHED = "UNFINISHED"
    """The run is in progress, or the coordinator's process ended without a verdict."""
    VALID = "VALID"
    INVALID = "INVALID"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a run and its reasons."""

    outcome: Outcome
    reason: str
    """Empty if the outcome is VALID."""
    checks: tuple[VerdictCheck, ...] = ()
    deviations: tuple[str, ...] = ()
    """Differences from the settings of a submission; they do not make the run INVALID."""

    @classmethod
    def of(cls, made: list[VerdictCheck], deviating: list[str]) -> "Verdict":
        """Return the verdict on a completed run from its checks."""
        failed = [f"{check.name}: {check.seen}" for check in made if not check.passed]
        outcome = Outcome.INVALID if failed else Outcome.VALID
        return cls(outcome, "; ".join(failed), tuple(made), tuple(deviating))


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
    detail = read_detail(log_dir / _DETAIL)
    accuracy = read_accuracy(log_dir / _ACCURACY)
    performance = setup.mode is Mode.PERFORMANCE
    complete = not performance or detail.logs_every_answer
    made = [
        *([checks.loadgen_result(detail)] if performance else []),
        checks.loadgen_errors(detail),
        checks.completion(counts),
        checks.tokens(counts),
        checks.loadgen_tokens(detail, setup.scenario, counts),
        checks.accuracy_log(accuracy, counts.reported_tokens if complete else None),
        *_coverage(detail, accuracy, setup, counts),
        checks.configuration(counts),
        checks.continuation(counts),
        checks.short_answers(counts),
        checks.pauses(telemetry),
        checks.clock(telemetry),
    ]
    return Verdict.of(made, deviations(detail, setup)), detail


def _coverage(detail: DetailLog, accuracy: AccuracyLog, setup: Setup, counts: Counts) -> list[VerdictCheck]:
    if setup.mode is Mode.ACCURACY:
        return [checks.accuracy_coverage(accuracy, min(setup.num_samples, BENCHMARK.accuracy_sample_count))]
    issued = checks.coverage(detail, setup.num_samples, counts)
    if not detail.logs_every_answer:
        return [issued]
    return [issued, checks.logged_samples(detail, setup.num_samples, accuracy)]


def set_aside(log_dir: Path, outcome: Outcome) -> tuple[str, ...]:
    """Rename LoadGen's logs if a submission checker could mistake them for logs of a VALID run.

    This applies to a run that is not VALID although its logs say VALID, contain no result (accuracy mode), or
    look complete after a failure. Logs of a completed run that LoadGen declares INVALID keep their names.

    Args:
        log_dir: LoadGen's output directory; logs may be missing or cut short.
        outcome: How the run ended.

    Returns:
        The new names; empty if no log was renamed.

    Raises:
        OSError: A log cannot be read or renamed.
    """
    if outcome is Outcome.VALID or not _may_mislead(log_dir, outcome):
        return ()
    renamed = []
    for name in (_SUMMARY, _DETAIL, _ACCURACY):
        if (log_dir / name).exists():
            os.replace(log_dir / name, log_dir / f"{REJECTED_PREFIX}{name}")
            renamed.append(f"{REJECTED_PREFIX}{name}")
    return tuple(renamed)


def _may_mislead(log_dir: Path, outcome: Outcome) -> bool:
    summary, detail = _read(log_dir / _SUMMARY), _read(log_dir / _DETAIL)
    if b"Result is : VALID" in summary or b'"key": "result_validity", "value": "VALID"' in detail:
        return True
    return bool(summary) and (outcome is not Outcome.INVALID or b"Result is : INVALID" not in summary)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def exit_code(outcome: Outcome) -> int:
    """Return the exit code of a run that was not interrupted."""
    return {Outcome.VALID: 0, Outcome.FAILED: 1, Outcome.INVALID: 3}[outcome]
