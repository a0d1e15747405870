"""Recorded answers by prompt, for the replaying engine.

A prompt with several answers gets them in the order of their rows, from the first again after the last; each
run begins with the first. A request with tokens of another worker continues an answer that begins with them.
An answer that is longer than the request's budget is cut there and ends with LENGTH.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from protos import worker_pb2 as pb
from protos.columns import FrameError, PromptColumns, TokenIds
from worker.engines.scripted.answers import AnswerColumns

# generation_config.json of openai/gpt-oss-120b: <|return|>, <|endoftext|> and <|call|>.
STOP_TOKEN_IDS = (200_002, 199_999, 200_012)


def prompt_key(prompt: TokenIds) -> bytes:
    """Hash a prompt, (prompt_len,), with XXH3-128."""
    key: bytes = xxhash.xxh3_128_digest(np.ascontiguousarray(prompt, np.int32).data)
    return key


class RecordedAnswers:
    """Answers of N rows, and how often each prompt has been answered in the current run."""

    def __init__(self, sha256: str, keys: Sequence[bytes], tokens: TokenIds, lens: NDArray[np.int64]) -> None:
        """Create the answers.

        Args:
            sha256: Hash of the file's bytes, hexadecimal.
            keys: (N,) key of each row's prompt.
            tokens: (T,) answers end to end; a stop id only as the last token of an answer.
            lens: (N,) length of each answer in tokens.
        """
        self.sha256 = sha256
        self._tokens = tokens
        self._lens = lens
        self._starts = lens.cumsum() - lens
        self._rows: dict[bytes, list[int]] = {}
        for row, key in enumerate(keys):
            self._rows.setdefault(key, []).append(row)
        self._num_answered = Counter[bytes]()

    def begin_run(self) -> None:
        """Begin with the first answer of each prompt again."""
        self._num_answered.clear()

    def tokens_at(self, positions: NDArray[np.int64]) -> TokenIds:
        """Return the tokens at positions of the concatenated answers, (R,)."""
        # A row that ends without a token may have a position beyond the end.
        return self._tokens.take(positions, mode="clip")

    def for_prompts(self, prompts: PromptColumns) -> AnswerColumns:
        """Find the answers to R prompts.

        Raises:
            FrameError: A prompt has no answer, or one that ends without a stop id below the budget.
        """
        ends = prompts.prompt_lens.cumsum(dtype=np.int64).tolist()
        lens, num_produced = prompts.prompt_lens.tolist(), prompts.produced.tolist()
        rows = np.array(
            [
                self._choose(prompts.prompt_tokens[end - length : end], produced)
                for end, length, produced in zip(ends, lens, num_produced, strict=True)
            ],
            np.int64,
        )
        produced = prompts.produced.astype(np.int64)
        left = self._lens[rows] - produced
        return AnswerColumns(
            requests=prompts.requests,
            prompt_lens=prompts.prompt_lens,
            positions=self._starts[rows] + produced,
            lens=np.minimum(left, prompts.max_new_tokens),
            reasons=self._reasons(rows, left, prompts.max_new_tokens.astype(np.int64)),
        )

    def _choose(self, tokens: TokenIds, num_produced: int) -> int:
        """Return the row of a prompt's next answer, or of one that begins with the produced tokens."""
        prompt, produced = np.split(tokens, [len(tokens) - num_produced])
        key = prompt_key(prompt)
        rows = self._rows.get(key, [])
        if not rows:
            raise FrameError(f"the answers file has no answer to a prompt of {len(prompt)} tokens")
        if not num_produced:
            self._num_answered[key] += 1
            return rows[(self._num_answered[key] - 1) % len(rows)]
        for row in rows:
            start = self._starts[row]
            if np.array_equal(self._tokens[start : start + num_produced], produced):
                return row
        raise FrameError(f"no answer in the answers file begins with the {num_produced} produced tokens")

    def _reasons(
        self, rows: NDArray[np.int64], left: NDArray[np.int64], budgets: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Return the finish reasons, (R,), of answers with `left` tokens left under `budgets`."""
        stops = self._stops(rows)
        short = ~stops & (left < budgets)
        if short.any():
            row = int(rows[np.argmax(short)])
            raise FrameError(
                f"row {row} of the answers file has {self._lens[row]} tokens and no stop id, "
                "and the run's budget is larger"
            )
        whole = stops & (left <= budgets)
        return np.where(whole, pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH).astype(np.uint8)

    def _stops(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return whether an answer is empty or ends with a stop id, (R,)."""
        empty = self._lens[rows] == 0
        last = self._tokens.take(self._starts[rows] + self._lens[rows] - 1, mode="clip")
        stops: NDArray[np.bool_] = empty | np.isin(last, STOP_TOKEN_IDS)
        return stops
