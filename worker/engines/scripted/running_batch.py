"""The running batch of a scripted engine: each step gives every request the next token of its answer."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from protos import worker_pb2 as pb
from protos.columns import Lens, RequestNames, TokenColumns, TokenIds
from worker.engine_protocol import Step, step_times
from worker.engines.scripted.answers import AnswerColumns

TokensAt = Callable[[NDArray[np.int64]], TokenIds]
"""Returns the tokens at positions (R,) as a new array."""

_NO_ROWS = np.zeros(0, np.uint32)
_NEVER = int(np.iinfo(np.int64).max)


class RunningBatch:
    """R running requests as columns; a step that finishes no request costs a few numpy calls."""

    def __init__(self, tokens_at: TokensAt, stop_token_id: int | None = None) -> None:
        """Create an empty batch.

        Args:
            tokens_at: Returns the tokens at positions of the answers.
            stop_token_id: Last token of the answers that stop; None: the answers contain their stop ids.
        """
        self._tokens_at = tokens_at
        self._stop_token_id = stop_token_id
        self.clear()

    def clear(self) -> None:
        """Drop all requests."""
        self._answers = AnswerColumns.empty()
        self._num_steps = 0
        # Both (R,). The token of step s is the one at position offset + s. The last step of an answer without
        # tokens is the step before its first one.
        self._offsets = self._last_steps = np.zeros(0, np.int64)
        self._next_end = _NEVER
        self._admitted_ns = np.zeros(0, np.int64)
        """(R,)"""
        self._num_fresh = 0
        """Requests without a step, which are the last rows."""

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self._answers.requests)

    @property
    def requests(self) -> RequestNames:
        """(R,) request names."""
        return self._answers.requests

    def add(self, answers: AnswerColumns, admitted_ns: Sequence[int]) -> None:
        """Add requests, admitted at times (R,); the next step gives them their first tokens."""
        if not len(answers.requests):
            return
        self._admitted_ns = np.concatenate([self._admitted_ns, np.array(admitted_ns, np.int64)])
        self._answers = self._answers.append(answers)
        self._offsets = np.concatenate([self._offsets, answers.positions - self._num_steps])
        self._last_steps = np.concatenate([self._last_steps, self._num_steps + answers.lens - 1])
        self._next_end = int(self._last_steps.min())
        self._num_fresh += len(answers.requests)

    def cancel(self, requests: list[int]) -> None:
        """Drop requests by name; unknown names are ignored."""
        self._keep(~np.isin(self.requests, np.array(requests, np.uint64)))

    def step(self) -> Step:
        """Give each request its next token and remove the requests that finish."""
        number = self._num_steps
        tokens = self._tokens_at(self._offsets + number)
        counts: Lens | None = None
        ended = _NO_ROWS
        if ending := number >= self._next_end:
            ended = np.flatnonzero(self._last_steps <= number).astype(np.uint32)
            if self._stop_token_id is not None:
                tokens[ended[self._answers.reasons[ended] == pb.FINISH_REASON_STOP]] = self._stop_token_id
            counts = (self._last_steps >= number).astype(np.uint32)
            tokens = tokens[counts > 0]
        produced_ns = time.monotonic_ns()
        first_rows = self._first_rows(counts) if self._num_fresh else []
        columns = TokenColumns(
            requests=self.requests,
            counts=None if counts is None or counts.all() else counts,
            tokens=tokens,
            finished_rows=ended,
            finish_reasons=self._answers.reasons[ended],
            produced_ns=produced_ns,
            times=step_times(first_rows, self._admitted_ns[first_rows].tolist(), len(ended), produced_ns)
            if first_rows or ending
            else None,
        )
        urgent = ending or self._num_fresh > 0
        self._num_steps += 1
        self._num_fresh = 0
        if ending:
            self._keep(self._last_steps > number)
        return Step(columns, urgent)

    def _first_rows(self, counts: Lens | None) -> list[int]:
        """Return the rows to which a step gives their first token; counts: its tokens, None: one each."""
        rows = range(len(self) - self._num_fresh, len(self))
        return [row for row in rows if counts is None or counts[row]]

    def _keep(self, rows: NDArray[np.bool_]) -> None:
        self._num_fresh = int(np.count_nonzero(rows[len(rows) - self._num_fresh :]))
        self._admitted_ns = self._admitted_ns[rows]
        self._answers = self._answers.take(rows)
        self._offsets = self._offsets[rows]
        self._last_steps = self._last_steps[rows]
        self._next_end = int(self._last_steps.min(initial=_NEVER))
