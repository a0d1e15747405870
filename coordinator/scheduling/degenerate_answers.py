"""Count answers that a working model does not give: one repeated token, or the answer to another prompt."""

import numpy as np
import xxhash
from numpy.typing import NDArray

from coordinator.scheduling.prompt_source import PromptSource
from coordinator.scheduling.request_columns import TokenCounts
from protos.columns import TokenIds

MIN_TOKENS = 8
"""Shorter answers are not counted: a short answer, such as "yes", may be right for many prompts."""
MIN_CUT_TOKENS = 64
"""Answers that a shorter budget cuts off are not compared: many of a model's answers begin alike."""


class DegenerateAnswers:
    """Counts over the finished answers of a run; costs one hash per answer."""

    def __init__(self, dataset: PromptSource, max_new_tokens: int) -> None:
        """Start without answers.

        Args:
            dataset: The prompts; samples with equal prompts count as one, unless prompts arrive later.
            max_new_tokens: Longest answer, in tokens.
        """
        self._prompts = _first_rows(dataset)
        self._cut_tokens = max_new_tokens if max_new_tokens < MIN_CUT_TOKENS else 0
        self.num_repeated = 0
        """Answers that repeat one token, up to the last token, which may be a stop id."""
        self.num_equal = 0
        """Answers equal to an earlier answer to a different prompt."""
        self._first_prompts: dict[int, int] = {}
        """XXH3-64 of each distinct answer, and the prompt that it answered first."""

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
        whole = ends - starts != self._cut_tokens
        rows = samples[long][whole]
        prompts = (self._prompts[rows] if len(self._prompts) else rows).tolist()
        # Slices of a memoryview cost half of an array's.
        view = memoryview(tokens.data)
        for prompt, start, end in zip(prompts, starts[whole].tolist(), ends[whole].tolist(), strict=True):
            digest = xxhash.xxh3_64_intdigest(view[start:end])
            self.num_equal += self._first_prompts.setdefault(digest, prompt) != prompt


def _first_rows(dataset: PromptSource) -> NDArray[np.int64]:
    """Return for each sample, (N,), the first one with the same prompt."""
    firsts: dict[bytes, int] = {}
    rows = range(dataset.num_samples)
    return np.array(
        [firsts.setdefault(xxhash.xxh3_128_digest(dataset.prompt(row).data), row) for row in rows], np.int64
    )
