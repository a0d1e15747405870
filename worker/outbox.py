"""Queue between the engine and the stream: merges engine steps into token frames.

A frame contains all pending steps, up to a size limit: a slow reader gets fewer and larger frames, and no
token is lost. Each step is merged only once, so the cost per step does not grow with the backlog.
A frame with a request's first or last token is sent at once. Other tokens wait for at most the hold time,
which limits the frame rate and the tokens that are lost with a worker.
"""

import asyncio
import time
from bisect import bisect_left
from collections import deque
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protos import worker_pb2 as pb
from protos.columns import TokenColumns, TokenTimes, pack_tokens
from worker.engine_protocol import Step, step_times

# A quarter of MAX_MESSAGE_BYTES, counted before merging: 0.8 million rows of one token.
MAX_FRAME_BYTES = 16 << 20
# Bytes per row: name, count, finished row and finish reason.
_ROW_BYTES = 8 + 4 + 4 + 1


_NO_ROWS = np.zeros(0, np.int64)


class _Pending(NamedTuple):
    columns: TokenColumns
    urgent: bool
    num_bytes: int


class Outbox:
    """Messages waiting to be sent on one stream."""

    def __init__(self, hold_ns: int, *, single: bool = False) -> None:
        """Create an empty outbox.

        Args:
            hold_ns: Longest wait of tokens that are neither the first nor the last of a request.
            single: Each step is one request's and becomes a frame of its own.
        """
        self._max_frame_bytes = 0 if single else MAX_FRAME_BYTES
        self._hold_s = hold_ns / 1e9
        self._control: deque[pb.FromWorker] = deque()
        self._steps: deque[_Pending] = deque()
        self._due = False
        """The pending steps may be sent now."""
        self._hold_timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self.num_frames = 0
        """Token frames returned by `next` so far."""

    @property
    def num_control(self) -> int:
        """Pending messages other than token frames."""
        return len(self._control)

    def put(self, step: Step) -> None:
        """Add the output of one engine step."""
        for columns in split(step.columns):
            self._steps.append(_Pending(columns, step.urgent, _size(columns)))
        if step.urgent or not self._hold_s:
            self._set_due()
        elif not self._due and self._hold_timer is None:
            # One timer per frame: waking `next` for each step, only to wait again, would cost twice as much.
            self._hold_timer = asyncio.get_running_loop().call_later(self._hold_s, self._set_due)

    def put_control(self, message: pb.FromWorker) -> None:
        """Add a message that is sent before pending tokens: opened, pong."""
        self._control.append(message)
        self._wake.set()

    async def next(self) -> pb.FromWorker:
        """Wait for the next message to send."""
        while not self._control and not self._due:
            self._wake.clear()
            await self._wake.wait()
        return self._control.popleft() if self._control else self._take_frame()

    def _set_due(self) -> None:
        if self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None
        self._due = True
        self._wake.set()

    def _take_frame(self) -> pb.FromWorker:
        taken = [self._steps.popleft()]
        num_bytes = taken[0].num_bytes
        while self._steps and num_bytes + self._steps[0].num_bytes <= self._max_frame_bytes:
            taken.append(self._steps.popleft())
            num_bytes += taken[-1].num_bytes
        # The remaining steps were due with this frame and are sent immediately after it.
        self._due = bool(self._steps)
        oldest = next((step for step in taken if step.urgent), taken[0])
        columns = merge([step.columns for step in taken])
        times = columns.times and columns.times._replace(sent_ns=time.monotonic_ns())
        columns = columns._replace(produced_ns=oldest.columns.produced_ns, times=times)
        frame = pack_tokens(columns, sequence=self.num_frames)
        self.num_frames += 1
        return pb.FromWorker(tokens=frame)


def split(columns: TokenColumns) -> list[TokenColumns]:
    """Split a step by rows into pieces that fit in a frame; a single row always fits.

    An engine that kept running while this process was suspended returns all its tokens as one step.
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
                times=columns.times and _split_times(columns.times, (first, last), slice(low, high)),
            )
        )
        first = last
    return pieces


def _split_times(times: TokenTimes, rows: tuple[int, int], finished: slice) -> TokenTimes:
    """Take the times of the rows from the first up to the second, and of some finished rows."""
    begun = slice(*(bisect_left(times.first_rows, row) for row in rows))
    return TokenTimes(
        sent_ns=times.sent_ns,
        first_rows=[row - rows[0] for row in times.first_rows[begun]],
        received_ns=times.received_ns[begun],
        admitted_ns=times.admitted_ns[begun],
        first_ns=times.first_ns[begun],
        last_ns=times.last_ns[finished],
    )


def _size(columns: TokenColumns) -> int:
    """Return an upper bound for the bytes of a step in a frame."""
    return _ROW_BYTES * len(columns.requests) + columns.tokens.nbytes


def merge(steps: list[TokenColumns]) -> TokenColumns:
    """Merge steps, oldest first, so that each request has one row with its tokens in order."""
    if len(steps) == 1:
        return steps[0]
    return _stack(steps) if _same_rows(steps) else _sort(steps)


def _same_rows(steps: list[TokenColumns]) -> bool:
    """Return whether all steps have the same rows of one token, and only the last finishes requests."""
    first = steps[0].requests
    return not any(len(step.finished_rows) for step in steps[:-1]) and all(
        step.counts is None and np.array_equal(step.requests, first) for step in steps
    )


def _stack(steps: list[TokenColumns]) -> TokenColumns:
    """Merge steps with the same rows, the common case, at a tenth of the cost of sorting by name."""
    return steps[-1]._replace(
        counts=np.full(len(steps[0].requests), len(steps), np.uint32),
        tokens=np.column_stack([step.tokens for step in steps]).ravel(),
        produced_ns=steps[0].produced_ns,
        # A row of the same requests begins in the first step only, and ends in the last one only.
        times=_join_times(steps[0].times, steps[-1].times),
    )


def _join_times(begun: TokenTimes | None, ended: TokenTimes | None) -> TokenTimes | None:
    """Join the times of the rows that begin in one step and end in another."""
    if begun is None or ended is None:
        return begun or ended
    return begun._replace(last_ns=ended.last_ns)


def _sort(steps: list[TokenColumns]) -> TokenColumns:
    """Merge steps with different rows."""
    step_counts = [np.ones(len(s.requests), np.uint32) if s.counts is None else s.counts for s in steps]
    names, rows = np.unique(np.concatenate([s.requests for s in steps]), return_inverse=True)
    token_rows = np.repeat(rows, np.concatenate(step_counts))
    tokens = np.concatenate([s.tokens for s in steps])[np.argsort(token_rows, kind="stable")]
    counts = np.bincount(token_rows, minlength=len(names)).astype(np.uint32)
    firsts = np.cumsum([0, *(len(s.requests) for s in steps[:-1])])
    ends = np.concatenate([rows[first + s.finished_rows] for first, s in zip(firsts, steps, strict=True)])
    reasons = np.concatenate([s.finish_reasons for s in steps])
    order = np.argsort(ends)
    begins = [
        rows[first + np.array(s.times.first_rows, np.int64)] if s.times else _NO_ROWS
        for first, s in zip(firsts, steps, strict=True)
    ]
    return TokenColumns(
        requests=names,
        counts=None if (counts == 1).all() else counts,
        tokens=tokens,
        finished_rows=ends[order].astype(np.uint32),
        finish_reasons=reasons[order],
        produced_ns=steps[0].produced_ns,
        times=_merge_times(steps, np.concatenate(begins), order),
    )


def _merge_times(
    steps: list[TokenColumns], begins: NDArray[np.int64], order: NDArray[np.int64]
) -> TokenTimes | None:
    """Merge the times of steps.

    Args:
        steps: The steps, oldest first.
        begins: (K,) rows of the merged frame that begin, by step.
        order: (F,) ascending order of the rows that end, by step.
    """
    if all(step.times is None for step in steps):
        return None
    known = [step.times or step_times([], [], len(step.finished_rows), 0) for step in steps]
    parts = [times for times in known if times is not None]
    ascending = np.argsort(begins)
    return TokenTimes(
        sent_ns=0,
        first_rows=begins[ascending].tolist(),
        received_ns=_ordered([times.received_ns for times in parts], ascending),
        admitted_ns=_ordered([times.admitted_ns for times in parts], ascending),
        first_ns=_ordered([times.first_ns for times in parts], ascending),
        last_ns=_ordered([times.last_ns for times in parts], order),
    )


def _ordered(parts: list[list[int]], order: NDArray[np.int64]) -> list[int]:
    """Concatenate times and bring them into an order."""
    joined = list(chain.from_iterable(parts))
    return [joined[index] for index in order.tolist()]
