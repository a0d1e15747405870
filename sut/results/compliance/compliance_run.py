"""Read a run of a compliance test, decide the test, and write the verdict into the run's directory."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from common.atomic_files import replace_files
from common.flags import FlagError
from common.json_document import entry, read_object
from common.text import printable
from sut.benchmark import BENCHMARK, ComplianceTest
from sut.log_files import (
    ACCURACY,
    COMPLIANCE_REPORT,
    MAX_RECORD_BYTES,
    RECORD,
    REJECTED_PREFIX,
    VERIFIED_ACCURACY,
    VERIFIED_LENGTH,
    find_log,
)
from sut.results.accuracy.accuracy_inputs import read_inputs
from sut.results.accuracy.accuracy_report import AccuracyReport, write_report
from sut.results.accuracy.config import AccuracyConfig
from sut.results.accuracy.log_entries import AnswerLog, LogError
from sut.results.compliance.compliance_verdict import ComplianceVerdict, LengthFigures, bounds_of, decide
from sut.results.compliance.config import ComplianceConfig
from sut.results.compliance.verification_text import accuracy_text, output_length_text
from sut.results.verdict import COMPLETE, Outcome

RUN_FLAG = "RUN_DIR"
_MAX_REASON_LEN = 500


class ComplianceRun(NamedTuple):
    """A complete run of a compliance test."""

    test: ComplianceTest
    directory: Path
    outcome: str
    reason: str
    log_sha256: object
    """Of the accuracy log by run.json; None if it does not tell."""

    @classmethod
    def read(cls, directory: Path) -> "ComplianceRun":
        """Read the run's record.

        Raises:
            FlagError: It is no complete run of a compliance test.
        """
        names = [test.name for test in BENCHMARK.compliance_tests]
        name = directory.resolve().name
        if name not in names:
            raise FlagError(
                RUN_FLAG, f"is not named {' or '.join(names)}, as the run of a test is", directory
            )
        record = read_object(directory / RECORD, RUN_FLAG, MAX_RECORD_BYTES)
        outcome, reason = (
            printable(str(entry(record, "verdict", key)), _MAX_REASON_LEN) for key in ("outcome", "reason")
        )
        if outcome not in COMPLETE:
            raise FlagError(RUN_FLAG, f"the run is {outcome}: {reason}", directory)
        log_sha256 = entry(record, "files_sha256", ACCURACY)
        return cls(BENCHMARK.compliance_test_named(name), directory, outcome, reason, log_sha256)

    @property
    def log(self) -> Path:
        """LoadGen's accuracy log."""
        return find_log(self.directory, ACCURACY)

    @property
    def faults(self) -> list[str]:
        """What keeps the run from passing, whatever its answers are."""
        return [f"the run is {self.outcome}: {self.reason}"] if self.outcome == Outcome.INVALID else []


def decide_run(directory: Path, config: ComplianceConfig) -> ComplianceVerdict:
    """Decide the test of a run and write the verdict into its directory; earlier verdicts are replaced.

    Raises:
        FlagError: The run, its log or a file for scoring cannot be used; nothing is written.
    """
    run = ComplianceRun.read(directory)
    log = AnswerLog(run.log)
    try:
        figures = LengthFigures.of(log)
    except LogError as error:
        raise FlagError(RUN_FLAG, f"{run.log.name} {error}", run.directory) from error
    if run.log_sha256 not in (None, log.sha256):
        reason = f"{run.log.name} is not the log of the run: {RECORD} names another SHA-256"
        raise FlagError(RUN_FLAG, reason, run.directory)
    report = None
    if run.test.mean_answer_len is None:
        scoring = _scoring_config(config, run)
        report = None if figures.gaps(run.test.num_samples) else _score(scoring, run.test)
    # The official script reads the score as the evaluator prints it.
    score = None if report is None else round(report.score.percent, 3)
    verdict = decide(run.test, figures, score, run.faults, log.sha256)
    try:
        _write(run, verdict, figures, report)
    except OSError as error:
        raise FlagError(RUN_FLAG, f"cannot be written: {error.strerror}", run.directory) from error
    return verdict


def _scoring_config(config: ComplianceConfig, run: ComplianceRun) -> AccuracyConfig:
    """Return the flags of scoring the answers.

    Raises:
        FlagError: A flag is missing.
    """
    if config.reference_data is None or config.tokenizer is None:
        flag = "--reference-data" if config.reference_data is None else "--tokenizer"
        raise FlagError(flag, f"is missing; {run.test.name} is decided by the score of its answers")
    return AccuracyConfig(
        mlperf_log=run.log,
        reference_data=config.reference_data,
        tokenizer=config.tokenizer,
        overwrite=True,
    )


def _score(config: AccuracyConfig, test: ComplianceTest) -> AccuracyReport:
    scorer = dataclasses.replace(read_inputs(config), target_percent=bounds_of(test).low)
    return scorer.score()


def _write(
    run: ComplianceRun, verdict: ComplianceVerdict, figures: LengthFigures, report: AccuracyReport | None
) -> None:
    """Write the score, and the text for the checker with the verdict, whole or not at all."""
    if run.test.mean_answer_len is not None:
        name, text = VERIFIED_LENGTH, output_length_text(verdict, figures)
    else:
        if report is not None:
            accepted = not run.log.name.startswith(REJECTED_PREFIX)
            write_report(report, run.directory, has_score=True, has_text=accepted)
        name, text = VERIFIED_ACCURACY, accuracy_text(verdict, "" if report is None else report.to_text())
    replace_files(run.directory, {name: text, COMPLIANCE_REPORT: verdict.to_json()})
