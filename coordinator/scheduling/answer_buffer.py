"""Copies of finished answers, end to end, until they are taken together."""

import numpy as np
from numpy.typing import NDArray

from coordinator.scheduling.request_columns import TokenCounts
from protos.columns import TokenIds

MIN_BLOCK_TOKENS = 1 << 20


class AnswerBuffer:
    """Answers in order of completion.

    An answer is copied when it ends, right after it was checked: the memory is then in the processor's cache.
    """

    def __init__(self, max_new_tokens: int) -> None:
        """Reserve memory, which the kernel allocates as it is written.

        Args:
            max_new_tokens: Longest answer, in tokens.
        """
        self._block_tokens = max(MIN_BLOCK_TOKENS, max_new_tokens)
        self._earlier_blocks: list[TokenIds] = []
        """Answers in full blocks."""
        self._block: TokenIds = np.empty(self._block_tokens, np.int32)
        self._begin = self._end = 0
        """The answers in the current block."""
        self._samples: list[int] = []
        self._counts: list[int] = []

    def __len__(self) -> int:
        """Return the number of answers."""
        return len(self._samples)

    def add(self, sample: int, answer: TokenIds) -> None:
        """Copy one answer, (N,)."""
        num_tokens = len(answer)
        if self._end + num_tokens > self._block_tokens:
            self._earlier_blocks.append(self._block[self._begin : self._end])
            self._block = np.empty(self._block_tokens, np.int32)
            self._begin = self._end = 0
        self._block[self._end : self._end + num_tokens] = answer
        self._end += num_tokens
        self._samples.append(sample)
        self._counts.append(num_tokens)

    def take(self) -> tuple[NDArray[np.int64], TokenCounts, TokenIds]:
        """Remove all answers.

        Returns:
            (R,) samples, (R,) token counts, and (T,) concatenated tokens.
        """
        samples, counts = np.array(self._samples, np.int64), np.array(self._counts, np.int64)
        # A view: what is added later stands behind it.
        tokens = self._block[self._begin : self._end]
        if self._earlier_blocks:
            tokens = np.concatenate([*self._earlier_blocks, tokens])
        self._earlier_blocks, self._samples, self._counts = [], [], []
        self._begin = self._end
        return samples, counts, tokens
