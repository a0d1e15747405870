"""Turns the scheduler's reports into engine steps of one request each."""

import asyncio
import ctypes
import time
from collections import deque
from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from protos import worker_pb2 as pb
from protos.columns import TokenColumns
from sut.loadgen import CallTimes
from sut.settings import Scenario
from sut.sut import Reports
from worker.engine_protocol import Step, step_times

TOKEN_BYTES = 4
OnComplete = Callable[[int], None]


class AnswerSteps(Reports):
    """Receives first tokens and complete answers; everything runs on the event loop."""

    def __init__(self, scenario: Scenario, stop_ids: Collection[int], on_complete: OnComplete) -> None:
        """Start without steps.

        Args:
            scenario: Determines whether first tokens are sent before the rest of an answer.
            stop_ids: Token ids that end an answer.
            on_complete: Called with the name of each complete request.
        """
        super().__init__(scenario)
        self._stop_ids = frozenset(stop_ids)
        self._on_complete = on_complete
        self._steps: deque[Step] = deque()
        self._begun: set[int] = set()
        self._cancelled: set[int] = set()
        self._wake = asyncio.Event()

    def first_tokens(self, loadgen_ids: list[int], addresses: list[int]) -> CallTimes:
        """Send the first token of requests; returns the times of this call."""
        called_ns = time.monotonic_ns()
        for name, address in zip(loadgen_ids, addresses, strict=True):
            self._put(name, _tokens_at(address, 1), None)
            self._begun.add(name)
        return called_ns, time.monotonic_ns()

    def complete(self, loadgen_ids: list[int], addresses: list[int], counts: list[int]) -> CallTimes:
        """Send the tokens of complete requests that were not sent before, and their end.

        Returns:
            The times of this call.
        """
        called_ns = time.monotonic_ns()
        for name, address, count in zip(loadgen_ids, addresses, counts, strict=True):
            tokens = _tokens_at(address, count)
            stopped = count == 0 or int(tokens[-1]) in self._stop_ids
            reason = pb.FINISH_REASON_STOP if stopped else pb.FINISH_REASON_LENGTH
            self._put(name, tokens[1:] if name in self._begun else tokens, reason)
            self._begun.discard(name)
            self._on_complete(name)
        return called_ns, time.monotonic_ns()

    def cancel(self, names: Collection[int]) -> None:
        """Send nothing more of requests."""
        self._cancelled.update(names)

    def wake(self) -> None:
        """Let `wait` return."""
        self._wake.set()

    async def wait(self) -> None:
        """Wait for a step or `wake`."""
        if not self._steps:
            self._wake.clear()
            await self._wake.wait()

    def take(self) -> Step | None:
        """Return the next step, or None if there is none."""
        return self._steps.popleft() if self._steps else None

    def _put(self, name: int, tokens: NDArray[np.int32], reason: "pb.FinishReason | None") -> None:
        if name in self._cancelled:
            return
        ends = [] if reason is None else [0]
        begins = [0] if len(tokens) and name not in self._begun else []
        now_ns = time.monotonic_ns()
        columns = TokenColumns(
            requests=np.array([name], np.uint64),
            counts=np.array([len(tokens)], np.uint32),
            tokens=tokens,
            finished_rows=np.array(ends, np.uint32),
            finish_reasons=np.array([reason] if reason is not None else [], np.uint8),
            produced_ns=now_ns,
            # When the workers behind this one admitted the request is not known here.
            times=step_times(begins, [0] * len(begins), len(ends), now_ns),
        )
        self._steps.append(Step(columns, urgent=True))
        self._wake.set()


def _tokens_at(address: int, count: int) -> NDArray[np.int32]:
    """Copy tokens from the scheduler's memory."""
    return np.frombuffer(ctypes.string_at(address, TOKEN_BYTES * count), np.int32)
