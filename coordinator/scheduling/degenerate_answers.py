"""Count answers that a working model does not give: one repeated token, or the answer to another prompt."""

import numpy as np
import xxhash
from numpy.typing import NDArray

from coordinator.scheduling.request_columns import TokenCounts
from protos.columns import TokenIds

MIN_TOKENS = 8
"""Shorter answers are not counted: a short answer, such as "yes", may be right for many prompts."""


class DegenerateAnswers:
    """Counts over the finished answers of a run; costs one hash per answer."""

    def __init__(self) -> None:
        """Start without answers."""
        self.num_repeated = 0
        """Answers that repeat one token, up to the last token, which may be a stop id."""
        self.num_equal = 0
        """Answers equal to an earlier answer to a different sample."""
        self._first_samples: dict[int, int] = {}
        """XXH3-64 of each distinct answer, and the sample that it answered first."""

    def add(self, samples: NDArray[np.int64], counts: TokenCounts, tokens: TokenIds) -> None:
        """Count finished answers.

        Args:
            samples: (R,) sample indices.
            counts: (R,) tokens of each answer.
            tokens: (T,) the answers, concatenated.
        """
        long = counts >= MIN_TOKENS
        ends = counts.cumsum()[long]
        starts = ends - counts[long]
        if not len(ends):
            return
        # Few answers repeat a token at these three places; only those are compared as a whole.
        same = (tokens[starts] == tokens[(starts + ends) // 2]) & (tokens[starts] == tokens[ends - 2])
        for start, end in zip(starts[same].tolist(), ends[same].tolist(), strict=True):
            self.num_repeated += bool((tokens[start : end - 1] == tokens[start]).all())
        for sample, start, end in zip(samples[long].tolist(), starts.tolist(), ends.tolist(), strict=True):
            digest = xxhash.xxh3_64_intdigest(tokens[start:end].data)
            self.num_equal += self._first_samples.setdefault(digest, sample) != sample
