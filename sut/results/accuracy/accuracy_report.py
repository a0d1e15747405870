"""The report on a scored log: accuracy.json, accuracy.txt, and the table that is printed."""

import json
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.atomic_files import replace_files
from sut.log_files import ACCURACY_REPORT, ACCURACY_TEXT
from sut.results.accuracy.answer_reading import AnswerReading, GradedRow
from sut.results.accuracy.score import Score, exact_match_line

_FORMAT: Final = 1
_SHOWN_ROWS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyReport:
    """Every row with its verdicts, and what they were made from."""

    rows: list[GradedRow]
    target_percent: float
    log_sha256: str
    reference_sha256: str
    tokenizer_sha256: str
    uses_harmony: bool
    lcb_tests_sha256: str | None
    """Of the file of tests by which programs were graded."""

    @property
    def score(self) -> Score:
        """The official score; ungraded rows count as wrong."""
        return Score.of(self.rows)

    @property
    def passed(self) -> bool:
        """Whether the score reaches the target."""
        return self.score.percent >= self.target_percent

    @property
    def ungraded(self) -> list[GradedRow]:
        """Rows whose judge failed."""
        return [row for row in self.rows if row.official.is_right is None]

    @property
    def differences(self) -> list[GradedRow]:
        """Rows whose answer the two readings read differently."""
        return [row for row in self.rows if row.difference]

    def to_json(self, *, has_score: bool) -> str:
        """Compose accuracy.json.

        Args:
            has_score: False leaves the score out, because rows are ungraded.
        """
        score = self.score
        content = {
            "format": _FORMAT,
            "score_percent": score.percent if has_score else None,
            "target_percent": self.target_percent,
            "passed": self.passed if has_score else None,
            "num_samples": len(self.rows),
            "per_dataset": {name: counts._asdict() for name, counts in score.counts.items()},
            "second_opinion": self._second_opinion(),
            "differences": [_difference(row) for row in self.differences],
            "misses": self._misses(),
            "ungraded": [
                {"sample_index": row.row, "dataset": row.data_set, "reason": row.official.reason}
                for row in self.ungraded
            ],
            "log_sha256": self.log_sha256,
            "reference_sha256": self.reference_sha256,
            "python_version": platform.python_version(),
            "tokenizer_sha256": self.tokenizer_sha256,
            "lcb_tests_sha256": self.lcb_tests_sha256,
        }
        return json.dumps(content, indent=1) + "\n"

    def to_text(self) -> str:
        """Compose accuracy.txt; its last line is the one that the submission checker reads."""
        return "\n".join([*self._score_lines(), exact_match_line(self.score.percent), ""])

    def to_table(self, *, has_score: bool) -> str:
        """Compose what is printed."""
        lines = [
            *self._score_lines(),
            *self._miss_lines(),
            *self._difference_lines(),
            *self._ungraded_lines(),
        ]
        if has_score:
            lines += [self.verdict, exact_match_line(self.score.percent)]
        return "\n".join(lines)

    @property
    def verdict(self) -> str:
        """The score and the target in one line."""
        relation = "reaches" if self.passed else "is below"
        return f"score {self.score.percent:.4f} {relation} the target {self.target_percent:g}"

    def _second_opinion(self) -> dict[str, object]:
        second = Score.of(row._replace(official=row.second) for row in self.rows)
        return {
            "method": "openai-harmony" if self.uses_harmony else "text",
            "score_percent": second.percent,
            "per_dataset": {name: counts._asdict() for name, counts in second.counts.items()},
        }

    def _misses(self) -> dict[str, dict[str, int]]:
        counts = Counter((row.data_set, str(row.miss)) for row in self.rows if row.miss is not None)
        names = sorted({name for name, _ in counts})
        return {
            name: {miss: count for (data_set, miss), count in sorted(counts.items()) if data_set == name}
            for name in names
        }

    def _score_lines(self) -> Iterator[str]:
        yield f"{'data set':<20}{'correct':>9}{'total':>9}{'repeats':>9}{'percent':>10}"
        for name, counts in self.score.counts.items():
            percent = counts.correct / counts.total * 100
            yield f"{name:<20}{counts.correct:>9}{counts.total:>9}{counts.repeats:>9}{percent:>10.2f}"

    def _miss_lines(self) -> Iterator[str]:
        for name, misses in self._misses().items():
            yield f"missed in {name}: " + ", ".join(f"{count} {miss}" for miss, count in misses.items())

    def _difference_lines(self) -> Iterator[str]:
        """List rows where only one reading is right; accuracy.json has the others, too."""
        found = [row for row in self.differences if row.official.is_right is not row.second.is_right]
        num_equal = len(self.differences) - len(found)
        for row in found[:_SHOWN_ROWS]:
            yield (
                f"sample {row.row} {row.data_set}: officially {_shown(row.official)}, "
                f"second opinion {_shown(row.second)}: {row.difference}"
            )
        if (more := len(found) - _SHOWN_ROWS) > 0:
            yield f"and {more} more such samples, see {ACCURACY_REPORT}"
        if num_equal:
            yield f"{num_equal} more samples are read differently with equal verdicts, see {ACCURACY_REPORT}"

    def _ungraded_lines(self) -> Iterator[str]:
        for row in self.ungraded[:_SHOWN_ROWS]:
            yield f"sample {row.row} {row.data_set} is not graded: {row.official.reason}"
        if (more := len(self.ungraded) - _SHOWN_ROWS) > 0:
            yield f"and {more} more samples are not graded, see {ACCURACY_REPORT}"


def _difference(row: GradedRow) -> dict[str, object]:
    return {
        "sample_index": row.row,
        "dataset": row.data_set,
        "official": _reading(row.official),
        "second": _reading(row.second),
        "difference": row.difference,
    }


def _reading(reading: AnswerReading) -> dict[str, object]:
    return {"answer": reading.shown, "correct": reading.is_right}


def _shown(reading: AnswerReading) -> str:
    verdict = {True: "right", False: "wrong", None: "not graded"}[reading.is_right]
    return f"{'nothing' if reading.shown is None else reading.shown} ({verdict})"


def write_report(report: AccuracyReport, directory: Path, *, has_score: bool, has_text: bool) -> None:
    """Replace accuracy.txt, and accuracy.json after it: one that is there is whole and has its text.

    Args:
        report: The report.
        directory: Where the files are.
        has_score: Whether accuracy.json has the score.
        has_text: Whether there is an accuracy.txt.

    Raises:
        OSError: A file cannot be written.
    """
    text = report.to_text() if has_text else None
    replace_files(directory, {ACCURACY_TEXT: text, ACCURACY_REPORT: report.to_json(has_score=has_score)})
