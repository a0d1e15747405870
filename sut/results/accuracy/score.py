"""The official score of graded rows.

Source: behavior of language/gpt-oss-120b/eval_mlperf_accuracy.py of mlcommons/inference, August 2026.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sut.benchmark import BENCHMARK
from sut.results.accuracy.answer_reading import GradedRow


class DataSetCounts(NamedTuple):
    """Verdicts on the rows of one data set."""

    correct: int
    total: int
    repeats: int
    """Rows of each question."""
    ungraded: int
    """Rows without a verdict, which count as wrong if a score is given all the same."""


@dataclass(frozen=True, slots=True)
class Score:
    """Verdicts by data set, in the order of their names."""

    counts: dict[str, DataSetCounts]

    @classmethod
    def of(cls, rows: Iterable[GradedRow]) -> "Score":
        """Count the verdicts."""
        verdicts: dict[str, list[bool | None]] = {}
        for row in rows:
            verdicts.setdefault(row.data_set, []).append(row.official.is_right)
        return cls(
            {
                name: DataSetCounts(
                    sum(right is True for right in found),
                    len(found),
                    BENCHMARK.accuracy_repeats.get(name, 1),
                    sum(right is None for right in found),
                )
                for name, found in sorted(verdicts.items())
            }
        )

    @property
    def percent(self) -> float:
        """Questions answered correctly, each averaged over its rows, in percent of all questions."""
        score = largest = 0.0
        for counts in self.counts.values():
            score += counts.correct / counts.repeats
            largest += counts.total / counts.repeats
        return score / largest * 100 if largest else 0.0

    @property
    def num_ungraded(self) -> int:
        """Rows without a verdict."""
        return sum(counts.ungraded for counts in self.counts.values())


def exact_match_line(percent: float) -> str:
    """Return the line that the submission checker reads."""
    return f"'exact_match': {percent:.3f}"
