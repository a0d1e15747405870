"""Grade a completed run in a child process, after its workers are released.

An accuracy run and TEST07 are scored if --tokenizer is given. For TEST09 the child writes the files of the
verdict.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common.child_process import child_process, wait_for_exit
from common.signals import Interrupted, Interrupts
from coordinator.config import RunConfig
from coordinator.recording.file_thread import FileThread
from coordinator.recording.run_dir import WRITE_TIMEOUT_S, RunDir
from coordinator.recording.run_record import RunRecord
from sut import log_files
from sut.benchmark import ComplianceTest
from sut.results import checks
from sut.results.verdict import Outcome, Verdict

logger = logging.getLogger(__name__)

_GRADED_CODES = (0, 3)
"""Exit codes of the process: the run passes, or it does not."""
_STOP_TIMEOUT_S = 10.0


class GradingTask(NamedTuple):
    """A program that grades a run."""

    module: str
    argv: list[str]
    decides: bool
    """Whether the score decides the run; a run whose test is no score has decided itself."""

    @property
    def command(self) -> str:
        """The command that does the same later."""
        return f"tokenfleet {self.module.rpartition('.')[2]}"


def grading_task(
    config: RunConfig, test: ComplianceTest | None, run_dir: Path, outcome: Outcome
) -> GradingTask | None:
    """Return what grades a run with this outcome; None if nothing does.

    Args:
        config: The run's flags.
        test: The run's compliance test.
        run_dir: Directory of the run.
        outcome: Outcome of the complete run.
    """
    if test is not None and test.mean_answer_len is not None:
        return GradingTask("sut.results.compliance", [str(run_dir)], decides=False)
    if config.tokenizer is None or outcome is not Outcome.NOT_GRADED:
        return None
    data: dict[str, object] = {"--reference-data": config.input_file, "--tokenizer": config.tokenizer}
    if test is not None:
        return GradingTask("sut.results.compliance", [str(run_dir), *_flags(data)], decides=True)
    data |= {"--mlperf-log": run_dir / log_files.ACCURACY}
    optional = {"--lcb-tests": config.lcb_tests, "--max-samples": config.max_samples}
    return GradingTask("sut.results.accuracy", _flags(data | optional), decides=True)


def _flags(values: Mapping[str, object]) -> list[str]:
    return [f"{flag}={value}" for flag, value in values.items() if value is not None]


@dataclass(frozen=True, slots=True)
class RunGrading:
    """Grading of one run whose workers are free."""

    config: RunConfig
    test: ComplianceTest | None
    run_dir: RunDir
    files: FileThread
    interrupts: Interrupts

    def grade(self, record: RunRecord) -> RunRecord:
        """Grade the run if its flags or its compliance test ask for it; stores and returns the record.

        Raises:
            Interrupted: A signal arrived; run.json has the verdict before the grading.

        Thread: main.
        """
        task = grading_task(self.config, self.test, self.run_dir.path, record.verdict.outcome)
        if task is None:
            return record
        logger.info("the run is complete and its workers are free; %s grades it", task.command)
        try:
            code = self._run(task)
        except Interrupted:
            outcome = record.verdict.outcome
            logger.error("the run is complete, %s; `%s` grades it later", outcome, task.command)
            raise
        return self._conclude(record, task, code)

    def _run(self, task: GradingTask) -> int:
        """Run the process; returns its exit code."""
        self.interrupts.resume()
        with child_process(task.module, task.argv, {}, _STOP_TIMEOUT_S) as process:
            wait_for_exit(process)
        self.interrupts.hold()
        return process.returncode

    def _conclude(self, record: RunRecord, task: GradingTask, code: int) -> RunRecord:
        """Store the verdict; a rejected run loses the names that a submission checker reads first."""
        if not task.decides:
            if code not in _GRADED_CODES:
                logger.error("%s ended with exit code %d: its files are missing", task.command, code)
            return record
        try:
            judge = partial(_judge, record.verdict, self.run_dir.path, task, code)
            judged = self.files.call(judge, WRITE_TIMEOUT_S)
            graded = replace(record, verdict=judged)
            if not judged.outcome.accepted:
                self.files.call(lambda: _reject(self.run_dir.path), WRITE_TIMEOUT_S)
            self.run_dir.write(graded)
        except OSError as error:
            logger.error("the verdict after scoring was not stored: %s", error)
            return replace(record, verdict=record.verdict.not_graded(str(error)))
        return graded


def _judge(verdict: Verdict, run_dir: Path, task: GradingTask, code: int) -> Verdict:
    """Return the verdict after scoring.

    Raises:
        OSError: The report cannot be read.
    """
    if code not in _GRADED_CODES:
        return verdict.not_graded(f"scoring ended with exit code {code}; `{task.command}` scores the log")
    report = json.loads((run_dir / log_files.ACCURACY_REPORT).read_text(encoding="utf-8"))
    return verdict.graded(checks.accuracy_score(report["score_percent"], report["target_percent"]))


def _reject(run_dir: Path) -> None:
    log_files.reject(run_dir)
    (run_dir / log_files.ACCURACY_TEXT).unlink(missing_ok=True)
