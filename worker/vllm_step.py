"""What vLLM's request streams yielded in one turn of the event loop, on its way into columns."""

import time
from collections.abc import Sequence
from itertools import chain

import numpy as np

from protos.frames import TokenColumns
from worker.engine import Step


class PendingStep:
    """New tokens on their way to step(), by request in order of arrival."""

    __slots__ = ("finish_reasons", "produced_ns", "tokens", "urgent")

    def __init__(self) -> None:
        self.tokens: dict[int, list[int]] = {}
        self.finish_reasons: dict[int, int] = {}
        self.urgent = False
        self.produced_ns = 0

    def put(self, name: int, tokens: Sequence[int], finish_reason: int | None) -> None:
        """Add a request's new tokens, and its reason (pb.FinishReason) when it ends with them."""
        if not self.tokens:
            self.produced_ns = time.monotonic_ns()
        self.tokens.setdefault(name, []).extend(tokens)
        if finish_reason is not None:
            self.finish_reasons[name] = finish_reason
            self.urgent = True

    def drop(self, name: int) -> None:
        """Forget a request."""
        self.tokens.pop(name, None)
        self.finish_reasons.pop(name, None)

    def pack(self) -> Step:
        """Put what came into columns."""
        num_rows = len(self.tokens)
        counts = np.fromiter(map(len, self.tokens.values()), np.uint32, num_rows)
        ends = [row for row, name in enumerate(self.tokens) if name in self.finish_reasons]
        reasons = [self.finish_reasons[name] for name in self.tokens if name in self.finish_reasons]
        columns = TokenColumns(
            requests=np.fromiter(self.tokens, np.uint64, num_rows),
            counts=None if (counts == 1).all() else counts,
            tokens=np.fromiter(chain.from_iterable(self.tokens.values()), np.int32, int(counts.sum())),
            finished_rows=np.array(ends, np.uint32),
            finish_reasons=np.array(reasons, np.uint8),
            produced_ns=self.produced_ns,
        )
        return Step(columns, self.urgent)
