"""Between the engine and the stream: steps go in, frames come out when the stream is ready for one.

A frame takes what is pending, up to a bound, so a slow reader gets fewer, larger frames and no token is
lost. Every step is merged once, however long the backlog.
A frame with a first token or an end leaves at once. Other tokens wait for at most the hold time: it bounds
the frame rate, and what a lost worker can take with it.
"""

import asyncio
from collections import deque
from typing import NamedTuple

import numpy as np

from protos import worker_pb2 as pb
from protos.columns import TokenColumns, pack_tokens
from worker.engine_protocol import Step

# A quarter of MAX_MESSAGE_BYTES, counted before merging: 0.8 million tokens of as many rows.
MAX_FRAME_BYTES = 16 << 20
# Name, count, and an end's row and reason.
_ROW_BYTES = 8 + 4 + 4 + 1


class _Pending(NamedTuple):
    columns: TokenColumns
    urgent: bool
    num_bytes: int


class Outbox:
    """Messages of one stream on their way to the coordinator."""

    def __init__(self, hold_ns: int) -> None:
        """Create an empty outbox.

        Args:
            hold_ns: Longest wait of tokens that are neither first nor last.
        """
        self._hold_s = hold_ns / 1e9
        self._control: deque[pb.FromWorker] = deque()
        self._steps: deque[_Pending] = deque()
        self._due = False
        """What is pending may leave now."""
        self._holding: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self.num_frames = 0
        """Token frames taken so far."""

    @property
    def num_control(self) -> int:
        """Messages other than tokens that nobody took yet."""
        return len(self._control)

    def put(self, step: Step) -> None:
        """Add what one engine step produced."""
        for columns in split(step.columns):
            self._steps.append(_Pending(columns, step.urgent, _size(columns)))
        if step.urgent or not self._hold_s:
            self._fall_due()
        elif not self._due and self._holding is None:
            # One timer for a frame: to wake the reader only to have it wait costs twice as much.
            self._holding = asyncio.get_running_loop().call_later(self._hold_s, self._fall_due)

    def put_control(self, message: pb.FromWorker) -> None:
        """Add a message that overtakes tokens: opened, pong."""
        self._control.append(message)
        self._wake.set()

    async def next(self) -> pb.FromWorker:
        """Wait for the next message to send."""
        while not self._control and not self._due:
            self._wake.clear()
            await self._wake.wait()
        return self._control.popleft() if self._control else self._take_frame()

    def _fall_due(self) -> None:
        if self._holding is not None:
            self._holding.cancel()
            self._holding = None
        self._due = True
        self._wake.set()

    def _take_frame(self) -> pb.FromWorker:
        taken = [self._steps.popleft()]
        num_bytes = taken[0].num_bytes
        while self._steps and num_bytes + self._steps[0].num_bytes <= MAX_FRAME_BYTES:
            taken.append(self._steps.popleft())
            num_bytes += taken[-1].num_bytes
        # What stays behind was due with this frame: it follows at once.
        self._due = bool(self._steps)
        oldest = next((step for step in taken if step.urgent), taken[0])
        columns = merge([step.columns for step in taken])
        columns = columns._replace(produced_ns=oldest.columns.produced_ns)
        frame = pack_tokens(columns, sequence=self.num_frames)
        self.num_frames += 1
        return pb.FromWorker(tokens=frame)


def split(columns: TokenColumns) -> list[TokenColumns]:
    """Cut a step between rows into pieces that fit a frame; a row alone always does.

    An engine that ran on while this process was stopped hands over all of it as one step.
    """
    if _size(columns) <= MAX_FRAME_BYTES:
        return [columns]
    rows = len(columns.requests)
    counts = np.ones(rows, np.int64) if columns.counts is None else columns.counts.astype(np.int64)
    ends = counts.cumsum()
    sizes = np.cumsum([0, *(_ROW_BYTES + 4 * counts)])
    pieces, first = [], 0
    while first < rows:
        fitting = int(np.searchsorted(sizes, sizes[first] + MAX_FRAME_BYTES, side="right")) - 1
        last = max(fitting, first + 1)
        low, high = np.searchsorted(columns.finished_rows, (first, last))
        pieces.append(
            TokenColumns(
                requests=columns.requests[first:last],
                counts=None if columns.counts is None else columns.counts[first:last],
                tokens=columns.tokens[ends[first] - counts[first] : ends[last - 1]],
                finished_rows=columns.finished_rows[low:high] - np.uint32(first),
                finish_reasons=columns.finish_reasons[low:high],
                produced_ns=columns.produced_ns,
            )
        )
        first = last
    return pieces


def _size(columns: TokenColumns) -> int:
    """Bytes of a step in a frame, at most."""
    return _ROW_BYTES * len(columns.requests) + columns.tokens.nbytes


def merge(steps: list[TokenColumns]) -> TokenColumns:
    """Join steps, oldest first, so that each request has one row with its tokens in order."""
    if len(steps) == 1:
        return steps[0]
    return _stack(steps) if _same_rows(steps) else _join(steps)


def _same_rows(steps: list[TokenColumns]) -> bool:
    """Say whether each step has a token of each request in one order, and only the last step has ends."""
    first = steps[0].requests
    return not any(len(step.finished_rows) for step in steps[:-1]) and all(
        step.counts is None and np.array_equal(step.requests, first) for step in steps
    )


def _stack(steps: list[TokenColumns]) -> TokenColumns:
    """Merge steps of the same rows: most are, and it costs a tenth of sorting them by name."""
    return steps[-1]._replace(
        counts=np.full(len(steps[0].requests), len(steps), np.uint32),
        tokens=np.column_stack([step.tokens for step in steps]).ravel(),
        produced_ns=steps[0].produced_ns,
    )


def _join(steps: list[TokenColumns]) -> TokenColumns:
    step_counts = [np.ones(len(s.requests), np.uint32) if s.counts is None else s.counts for s in steps]
    names, rows = np.unique(np.concatenate([s.requests for s in steps]), return_inverse=True)
    token_rows = np.repeat(rows, np.concatenate(step_counts))
    tokens = np.concatenate([s.tokens for s in steps])[np.argsort(token_rows, kind="stable")]
    counts = np.bincount(token_rows, minlength=len(names)).astype(np.uint32)
    firsts = np.cumsum([0, *(len(s.requests) for s in steps[:-1])])
    ends = np.concatenate([rows[first + s.finished_rows] for first, s in zip(firsts, steps, strict=True)])
    reasons = np.concatenate([s.finish_reasons for s in steps])
    order = np.argsort(ends)
    return TokenColumns(
        requests=names,
        counts=None if (counts == 1).all() else counts,
        tokens=tokens,
        finished_rows=ends[order].astype(np.uint32),
        finish_reasons=reasons[order],
        produced_ns=steps[0].produced_ns,
    )
