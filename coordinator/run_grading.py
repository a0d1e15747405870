"""Score an accuracy run at its end, in a process of its own, when its workers are free."""

import json
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from common.child_process import child_command, child_environment
from common.signals import SIGNAL_POLL_S, Interrupted, Interrupts
from coordinator.config import RunConfig
from coordinator.recording.file_thread import FileThread
from coordinator.recording.run_dir import WRITE_TIMEOUT_S, RunDir
from coordinator.recording.run_record import RunRecord
from sut import log_files
from sut.results import checks
from sut.results.verdict import Outcome, Verdict

logger = logging.getLogger(__name__)

_MODULE = "sut.results.accuracy"
_SCORED_CODES = (0, 3)
"""Exit codes of the process: the score reaches the target, or is below it."""
_STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class RunGrading:
    """Scoring of one run whose workers are free."""

    config: RunConfig
    run_dir: RunDir
    files: FileThread
    interrupts: Interrupts

    def grade(self, record: RunRecord) -> RunRecord:
        """Score the run if its flags ask for it and its verdict is NOT_GRADED; stores and returns the record.

        Raises:
            Interrupted: A signal arrived; run.json says NOT_GRADED.

        Thread: main.
        """
        if not self.config.scores_accuracy or record.verdict.outcome is not Outcome.NOT_GRADED:
            return record
        logger.info("the run is complete and its workers are free; scoring the answers")
        try:
            code = self._score()
        except Interrupted:
            logger.error("the run is complete, NOT_GRADED; `tokenfleet accuracy` scores its log")
            raise
        return self._conclude(record, code)

    def _score(self) -> int:
        """Run the process; returns its exit code."""
        self.interrupts.resume()
        with _process(_arguments(self.config, self.run_dir.path)) as process:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(SIGNAL_POLL_S)
        self.interrupts.hold()
        return process.returncode

    def _conclude(self, record: RunRecord, code: int) -> RunRecord:
        """Store the verdict; a rejected run loses the names that a submission checker reads first."""
        try:
            judged = self.files.call(lambda: _judge(record.verdict, self.run_dir.path, code), WRITE_TIMEOUT_S)
            graded = replace(record, verdict=judged)
            if not judged.outcome.accepted:
                self.files.call(lambda: _reject(self.run_dir.path), WRITE_TIMEOUT_S)
            self.run_dir.write(graded)
        except OSError as error:
            logger.error("the verdict after scoring was not stored: %s", error)
            return replace(record, verdict=record.verdict.not_graded(str(error)))
        return graded


def _arguments(config: RunConfig, run_dir: Path) -> list[str]:
    values = {
        "--mlperf-log": run_dir / log_files.ACCURACY,
        "--reference-data": config.input_file,
        "--tokenizer": config.tokenizer,
        "--lcb-tests": config.lcb_tests,
        "--max-samples": config.max_samples,
    }
    return [f"{flag}={value}" for flag, value in values.items() if value is not None]


@contextmanager
def _process(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start the process; it does not outlive the block."""
    process = subprocess.Popen(child_command(_MODULE, argv), env=child_environment(os.environ))
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()


def _judge(verdict: Verdict, run_dir: Path, code: int) -> Verdict:
    """Return the verdict after scoring.

    Raises:
        OSError: The report cannot be read.
    """
    if code not in _SCORED_CODES:
        return verdict.not_graded(
            f"scoring ended with exit code {code}; `tokenfleet accuracy` scores the log"
        )
    report = json.loads((run_dir / log_files.ACCURACY_REPORT).read_text(encoding="utf-8"))
    return verdict.graded(checks.accuracy_score(report["score_percent"], report["target_percent"]))


def _reject(run_dir: Path) -> None:
    log_files.reject(run_dir)
    (run_dir / log_files.ACCURACY_TEXT).unlink(missing_ok=True)
