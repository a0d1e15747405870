"""Between the engine and the stream: steps go in, frames come out when the stream is ready for one.

A frame takes everything that is pending, so a slow reader gets fewer, larger frames and no token is lost.
A frame with a first token or an end leaves at once. Other tokens wait for at most the hold time: it bounds
the frame rate, and what a lost worker can take with it.
"""

import asyncio
import time
from collections import deque

import numpy as np

from protos import worker_pb2 as pb
from protos.frames import TokenColumns, pack_tokens
from worker.engine import Step


class Outbox:
    """Messages of one stream on their way to the coordinator."""

    def __init__(self, hold_ns: int) -> None:
        """Create an empty outbox.

        Args:
            hold_ns: Longest wait of tokens that are neither first nor last.
        """
        self._hold_ns = hold_ns
        self._control: deque[pb.FromWorker] = deque()
        self._steps: list[TokenColumns] = []
        self._urgent = False
        self._due_ns = 0
        self._produced_ns = 0
        self._wake = asyncio.Event()
        self.num_frames = 0
        """Token frames taken so far."""

    def put(self, step: Step) -> None:
        """Add what one engine step produced."""
        now_ns = time.monotonic_ns()
        if not self._steps:
            self._due_ns = now_ns + self._hold_ns
            self._produced_ns = step.columns.produced_ns
            self._wake.set()
        self._steps.append(step.columns)
        if step.urgent and not self._urgent:
            self._urgent = True
            self._due_ns = now_ns
            self._produced_ns = step.columns.produced_ns
            self._wake.set()

    def put_control(self, message: pb.FromWorker) -> None:
        """Add a message that overtakes tokens: opened, failed, pong."""
        self._control.append(message)
        self._wake.set()

    async def next(self) -> pb.FromWorker:
        """Wait for the next message to send."""
        while True:
            if self._control:
                return self._control.popleft()
            wait_s = None
            if self._steps:
                wait_s = (self._due_ns - time.monotonic_ns()) / 1e9
                if wait_s <= 0:
                    return self._take_frame()
            self._wake.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _take_frame(self) -> pb.FromWorker:
        columns = merge(self._steps)._replace(produced_ns=self._produced_ns)
        self._steps, self._urgent = [], False
        frame = pack_tokens(columns, time.monotonic_ns(), sequence=self.num_frames)
        self.num_frames += 1
        return pb.FromWorker(tokens=frame)


def merge(steps: list[TokenColumns]) -> TokenColumns:
    """Join steps, oldest first, so that each request has one row with its tokens in order."""
    if len(steps) == 1:
        return steps[0]
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
