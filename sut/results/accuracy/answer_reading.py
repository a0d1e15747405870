"""Read each answer twice, officially and leniently, and compare it; programs are compared elsewhere."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.text import printable
from sut.benchmark import BENCHMARK
from sut.results.accuracy.data_sets import Extracted, Family, GroundTruth, extract, is_right
from sut.results.accuracy.detokenizer import Detokenizer
from sut.results.accuracy.differences import explain
from sut.results.accuracy.harmony import FinalMessage
from sut.results.accuracy.lenient import last_final_message, read_leniently
from sut.results.accuracy.log_entries import LoggedAnswer
from sut.results.accuracy.reference_data import ReferenceData
from sut.results.code_grading.program import Program, ProgramOutcome, ProgramVerdict

# Tokens decoded at a time: 256k Python integers are 10 MB.
_BATCH_TOKENS = 1 << 18
_MAX_SHOWN_LEN = 60
_STOP_IDS = frozenset(stop.token_id for stop in BENCHMARK.stop_ids)


class Miss(StrEnum):
    """Why an answer does not count as right."""

    UNPARSED = "unparsed"
    TRUNCATED = "truncated"
    """The answer was not ended by a stop id within the longest answer."""
    WRONG = "wrong"
    JUDGE_FAILED = "judge failed"


class AnswerReading(NamedTuple):
    """One of the two readings of an answer."""

    shown: str | None
    """The answer, or a description of the program; None: nothing was found."""
    is_right: bool | None
    """None: not graded."""
    reason: str = ""
    """Of a program that did not pass."""


class GradedRow(NamedTuple):
    """One row's answer with both verdicts."""

    row: int
    data_set: str
    official: AnswerReading
    second: AnswerReading
    num_tokens: int
    is_truncated: bool
    difference: str
    """Why the two readings differ; empty if they are equal."""

    @property
    def miss(self) -> Miss | None:
        """Why the official verdict is not right; None if it is."""
        if self.official.is_right:
            return None
        if self.official.is_right is None:
            return Miss.JUDGE_FAILED
        if self.is_truncated:
            return Miss.TRUNCATED
        return Miss.UNPARSED if self.official.shown is None else Miss.WRONG


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """What reading answers needs."""

    reference: ReferenceData
    detokenizer: Detokenizer
    final_message: FinalMessage | None
    """Parser of openai-harmony; None: final messages are found in the text."""
    max_new_tokens: int

    def read(self, answers: Iterable[LoggedAnswer]) -> Iterator["ReadAnswer"]:
        """Read answers in order, decoding several at a time."""
        for batch in _batches(answers):
            texts = self.detokenizer.decode([answer.token_ids for answer in batch])
            for answer, text in zip(batch, texts, strict=True):
                yield self._read(answer, text)

    def _read(self, answer: LoggedAnswer, text: str) -> "ReadAnswer":
        row = answer.sample_index
        family = self.reference.family(row)
        message = None if self.final_message is None else self.final_message(answer.token_ids)
        message = last_final_message(text) if message is None else message
        official, second = extract(family, text), read_leniently(family, message)
        return ReadAnswer(
            row=row,
            data_set=self.reference.names[row],
            family=family,
            truth=self.reference.truths[row],
            official=official,
            second=second,
            num_tokens=len(answer.token_ids),
            is_truncated=_is_truncated(answer.token_ids, self.max_new_tokens),
            difference="" if official == second else explain(family, text, message, official),
        )


def _batches(answers: Iterable[LoggedAnswer]) -> Iterator[list[LoggedAnswer]]:
    batch: list[LoggedAnswer] = []
    num_tokens = 0
    for answer in answers:
        batch.append(answer)
        num_tokens += len(answer.token_ids)
        if num_tokens >= _BATCH_TOKENS:
            yield batch
            batch, num_tokens = [], 0
    if batch:
        yield batch


def _is_truncated(token_ids: NDArray[np.int32], max_new_tokens: int) -> bool:
    return len(token_ids) >= max_new_tokens and int(token_ids[-1]) not in _STOP_IDS


class ReadAnswer(NamedTuple):
    """An answer as it was read; a program has no verdict yet."""

    row: int
    data_set: str
    family: Family
    truth: GroundTruth
    official: Extracted
    second: Extracted
    num_tokens: int
    is_truncated: bool
    difference: str

    def program(self, extracted: Extracted) -> Program | None:
        """Return the program to run for one reading; None if the official evaluator would not run any."""
        if (
            self.family is not Family.CODE
            or not extracted
            or not isinstance(self.truth, str)
            or not self.truth
        ):
            return None
        return Program(self.row, self.truth, str(extracted))

    def graded(self) -> GradedRow:
        """Compare both readings; programs count as not graded until their verdicts are there."""
        return GradedRow(
            self.row,
            self.data_set,
            self._reading(self.official),
            self._reading(self.second),
            self.num_tokens,
            self.is_truncated,
            self.difference,
        )

    def _reading(self, extracted: Extracted) -> AnswerReading:
        if self.program(extracted) is not None:
            return AnswerReading(_described(str(extracted)), None)
        right = self.family is not Family.CODE and is_right(self.family, extracted, self.truth)
        return AnswerReading(None if extracted is None else printable(str(extracted), _MAX_SHOWN_LEN), right)


def _described(source: str) -> str:
    digest = sha256(source.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"program {digest} of {source.count(chr(10)) + 1} lines"


class ProgramRows:
    """The rows read so far; hands out their programs and takes the verdicts on them.

    A program of the second reading has the number of its row plus the number of all rows.
    """

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows
        self._rows: dict[int, GradedRow] = {}

    def programs(self, answers: Iterable[ReadAnswer]) -> Iterator[Program]:
        """Take answers as they are needed; yields their programs."""
        for answer in answers:
            self._rows[answer.row] = answer.graded()
            official, second = answer.program(answer.official), answer.program(answer.second)
            if official is not None:
                yield official
            if second is not None and answer.second != answer.official:
                yield second._replace(row=answer.row + self._num_rows)

    def take(self, verdict: ProgramVerdict) -> None:
        """Note the verdict on one program."""
        is_second, row = divmod(verdict.row, self._num_rows)
        graded = self._rows[row]
        right = {ProgramOutcome.PASSED: True, ProgramOutcome.FAILED: False}.get(verdict.outcome)
        old = graded.second if is_second else graded.official
        new = AnswerReading(old.shown, right, verdict.reason)
        if is_second:
            self._rows[row] = graded._replace(second=new)
        else:
            second = graded.second if graded.difference else new
            self._rows[row] = graded._replace(official=new, second=second)

    def rows(self) -> list[GradedRow]:
        """Return all rows in the order of the data set."""
        return [self._rows[row] for row in sorted(self._rows)]
