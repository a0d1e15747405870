"""The verdict on a compliance test: its value against the official bounds, and coverage of the samples.

Source: compliance/TEST07/run_verification.py and compliance/TEST09/run_verification.py for value and bounds;
they do not check that every sample is in the log exactly once.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sut.benchmark import ComplianceTest, MeanBounds
from sut.results.accuracy.log_entries import LoggedAnswer

MAX_PERCENT = 100.0


class LengthFigures(NamedTuple):
    """Samples and lengths of the answers in an accuracy log."""

    sample_indices: Sequence[int]
    """(N,) in log order."""
    num_tokens: Sequence[int]
    """(N,) length of each answer."""

    @classmethod
    def of(cls, answers: Iterable[LoggedAnswer]) -> "LengthFigures":
        """Measure the answers of a log."""
        pairs = [(answer.sample_index, len(answer.token_ids)) for answer in answers]
        return cls([sample for sample, _ in pairs], [num for _, num in pairs])

    @property
    def mean(self) -> float:
        """Mean length in tokens, 0 without answers."""
        return sum(self.num_tokens) / max(len(self.num_tokens), 1)

    @property
    def deviation(self) -> float:
        """Standard deviation of the lengths over all answers, 0 without answers."""
        return float(np.std(self.num_tokens)) if self.num_tokens else 0.0

    def gaps(self, num_samples: int) -> list[str]:
        """List what keeps the log from having each of the test's samples exactly once."""
        counts = Counter(self.sample_indices)
        kinds = {
            "missing": [sample for sample in range(num_samples) if not counts[sample]],
            "in the log more than once": sorted(sample for sample, num in counts.items() if num > 1),
            f"not one of 0..{num_samples - 1}": sorted(
                sample for sample in counts if not 0 <= sample < num_samples
            ),
        }
        return [
            f"{len(samples)} of {num_samples} samples are {kind}, first sample {samples[0]}"
            for kind, samples in kinds.items()
            if samples
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ComplianceVerdict:
    """Whether a run passed its compliance test, and why not."""

    test: ComplianceTest
    value: float | None
    """Mean answer length in tokens, or the score in percent; None: there is no score."""
    bounds: MeanBounds
    """Inclusive bounds of the value."""
    num_samples: int
    """Different samples in the log."""
    log_sha256: str
    reasons: tuple[str, ...]
    """Why the test did not pass, one line each."""

    @property
    def passed(self) -> bool:
        """Whether the test passed."""
        return not self.reasons

    def to_json(self) -> str:
        """Compose compliance.json."""
        content = {
            "format": 1,
            "test": self.test.name,
            "passed": self.passed,
            "value": self.value,
            "bounds": list(self.bounds),
            "num_samples": self.num_samples,
            "num_expected": self.test.num_samples,
            "reasons": list(self.reasons),
            "log_sha256": self.log_sha256,
        }
        return json.dumps(content, indent=1) + "\n"


def bounds_of(test: ComplianceTest) -> MeanBounds:
    """Return the official bounds of a test's value: mean answer length, or score in percent."""
    if test.mean_answer_len is not None:
        return test.mean_answer_len
    (threshold,) = test.thresholds.values()
    return MeanBounds(float(threshold), MAX_PERCENT)


def decide(
    test: ComplianceTest, figures: LengthFigures, score: float | None, faults: Sequence[str], log_sha256: str
) -> ComplianceVerdict:
    """Decide a test.

    Args:
        test: The compliance test.
        figures: Samples and lengths of the run's answers.
        score: Percent of a test that is graded; None if it is not graded, or could not be.
        faults: What else keeps the run from passing.
        log_sha256: Hash of the accuracy log.
    """
    bounds = bounds_of(test)
    value = score if test.mean_answer_len is None else figures.mean
    reasons = [*faults, *figures.gaps(test.num_samples)]
    if value is not None and not bounds.low <= value <= bounds.high:
        kind = "the score" if test.mean_answer_len is None else "the mean answer length"
        reasons.append(f"{kind} is {value:.3f}, not in {bounds.low} to {bounds.high}")
    if value is None:
        reasons.append("there is no score")
    num_samples = len(set(figures.sample_indices))
    return ComplianceVerdict(
        test=test,
        value=value,
        bounds=bounds,
        num_samples=num_samples,
        log_sha256=log_sha256,
        reasons=tuple(reasons),
    )
