"""Score one accuracy log: check it, read every answer, run the programs, and compose the report."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from sut.results.accuracy.accuracy_report import AccuracyReport
from sut.results.accuracy.answer_reading import AnswerReader, ProgramRows, ReadAnswer
from sut.results.accuracy.detokenizer import Detokenizer
from sut.results.accuracy.harmony import FinalMessage
from sut.results.accuracy.log_entries import AnswerLog, LogError
from sut.results.accuracy.reference_data import ReferenceData
from sut.results.code_grading.program import Program, ProgramOutcome, ProgramVerdict

logger = logging.getLogger(__name__)

_PROGRESS_S = 10.0
_T = TypeVar("_T")
Judge = Callable[[Iterable[Program]], Iterator[ProgramVerdict]]
"""Runs programs; it takes them as it needs them."""


def no_judge(programs: Iterable[Program]) -> Iterator[ProgramVerdict]:
    """Leave every program ungraded."""
    for program in programs:
        yield ProgramVerdict(program.row, ProgramOutcome.UNGRADED, "no file of tests was given")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyScorer:
    """What scoring a log needs."""

    log: AnswerLog
    reference: ReferenceData
    detokenizer: Detokenizer
    target_percent: float
    max_new_tokens: int
    judge: Judge = no_judge
    final_message: FinalMessage | None = field(default=None)
    """Parser of openai-harmony, if it is at hand."""
    lcb_tests_sha256: str | None = None
    """Of the file of tests; None without one."""

    def check(self) -> None:
        """Require a whole log with exactly one entry for each row of the reference data.

        Raises:
            LogError: Names the entry or sample.
        """
        seen = bytearray(self.reference.num_rows)
        for answer in self.log:
            if not 0 <= answer.sample_index < len(seen):
                what = f"entry {answer.entry}: sample {answer.sample_index}"
                raise LogError(f"{what} is not one of the {len(seen)} rows of the reference data")
            if seen[answer.sample_index]:
                raise LogError(f"entry {answer.entry}: sample {answer.sample_index} has an entry before")
            seen[answer.sample_index] = 1
        if missing := seen.count(0):
            raise LogError(f"has no entry for {missing} of {len(seen)} samples, first sample {seen.index(0)}")

    def score(self) -> AccuracyReport:
        """Read and compare every answer.

        Raises:
            LogError: The log changed since `check`.
            GradingError: Programs cannot be run at all.
        """
        reader = AnswerReader(self.reference, self.detokenizer, self.final_message, self.max_new_tokens)
        rows = ProgramRows(self.reference.num_rows)
        answers: Iterator[ReadAnswer] = _counted("answers read", reader.read(self.log))
        for verdict in _counted("programs graded", self.judge(rows.programs(answers))):
            rows.take(verdict)
        return AccuracyReport(
            rows=rows.rows(),
            target_percent=self.target_percent,
            log_sha256=self.log.sha256,
            reference_sha256=self.reference.sha256,
            tokenizer_sha256=self.detokenizer.sha256,
            uses_harmony=self.final_message is not None,
            lcb_tests_sha256=self.lcb_tests_sha256,
        )


def _counted(what: str, values: Iterable[_T]) -> Iterator[_T]:
    """Log the number of values every few seconds."""
    last_s = time.monotonic()
    for number, value in enumerate(values, start=1):
        yield value
        if time.monotonic() - last_s >= _PROGRESS_S:
            last_s = time.monotonic()
            logger.info("%d %s", number, what)
