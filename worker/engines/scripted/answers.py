"""Answers of the scripted engines, which can be computed by hand from the prompt; no model is involved.

A prompt's first token is the length of its answer, the stop id included. The answer counts upward from the
prompt's last token, modulo 199,999 (gpt-oss's smallest stop id), and its last token is the stop id 200,002:

    prompt [4, 9, 17] -> 18, 19, 20, 200002    reason STOP
    the same, at most 2 new tokens -> 18, 19   reason LENGTH
    prompt [1, 9, 17] -> 200002                reason STOP
    prompt [0, 9, 17] -> no token              reason STOP

A seed is added to the counted tokens: with seed 5 the first answer is 23, 24, 25, 200002.
A prompt that ends with tokens already produced by another worker gets the rest of the same answer.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from protos import worker_pb2 as pb
from protos.columns import Lens, PromptColumns, RequestNames, TokenIds

STOP_TOKEN_ID = 200_002
COUNT_MODULUS = 199_999
VOCAB_SIZE = 201_088
MAX_SEED = (1 << 31) - 1

Column = NDArray[Any]


def counted_tokens(positions: NDArray[np.int64]) -> TokenIds:
    """Return the counted tokens at positions, (R,)."""
    return (positions % COUNT_MODULUS).astype(np.int32)


class AnswerColumns(NamedTuple):
    """R requests with their complete answers; columns are replaced, never modified in place."""

    requests: RequestNames
    """(R,) slot | generation << 32."""
    prompt_lens: Lens
    """(R,) tokens to prefill, including those produced by another worker."""
    positions: NDArray[np.int64]
    """(R,) position of the answer's first token: counted, before the modulus is applied; recorded, in the
    concatenated answers."""
    lens: NDArray[np.int64]
    """(R,) length of the answer in tokens, at least 0."""
    reasons: NDArray[np.uint8]
    """(R,) values of pb.FinishReason."""

    @classmethod
    def for_prompts(cls, prompts: PromptColumns, seed: int = 0) -> "AnswerColumns":
        """Compute the answers to R prompts."""
        ends = prompts.prompt_lens.cumsum(dtype=np.int64)
        produced = prompts.produced.astype(np.int64)
        last_tokens = prompts.prompt_tokens[ends - produced - 1].astype(np.int64)
        lens = np.maximum(prompts.prompt_tokens[ends - prompts.prompt_lens] - produced, 0)
        stops = lens <= prompts.max_new_tokens
        return cls(
            requests=prompts.requests,
            prompt_lens=prompts.prompt_lens,
            positions=last_tokens + 1 + produced + seed,
            lens=np.minimum(lens, prompts.max_new_tokens),
            reasons=np.where(stops, pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH).astype(np.uint8),
        )

    @classmethod
    def empty(cls) -> "AnswerColumns":
        """Create columns without rows."""
        kinds = (np.uint64, np.uint32, np.int64, np.int64, np.uint8)
        return cls._make(np.zeros(0, kind) for kind in kinds)

    def append(self, more: "AnswerColumns") -> "AnswerColumns":
        """Return these rows followed by others."""
        columns: Iterable[tuple[Column, Column]] = zip(self, more, strict=True)
        return AnswerColumns._make(np.concatenate(pair) for pair in columns)

    def without(self, requests: list[int]) -> "AnswerColumns":
        """Return the rows of all other requests; unknown names are ignored."""
        return self.take(~np.isin(self.requests, np.array(requests, np.uint64)))

    def take(self, rows: slice | NDArray[np.bool_]) -> "AnswerColumns":
        """Return the selected rows."""
        return AnswerColumns._make(column[rows] for column in self)
