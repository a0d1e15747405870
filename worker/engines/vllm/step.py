"""The requests that vLLM's engine core holds, and what one of its steps says of them, as columns."""

from collections.abc import Collection, Sequence
from itertools import chain
from typing import Protocol

import numpy as np

from protos import worker_pb2 as pb
from protos.columns import TokenColumns
from worker.engine_protocol import EngineDead, Load, Step

# vLLM's other reasons (abort, error, repetition) are no answers.
_REASONS = {"stop": pb.FINISH_REASON_STOP, "length": pb.FINISH_REASON_LENGTH}


class CoreOutput(Protocol):
    """What a step says of one request: vLLM's EngineCoreOutput."""

    @property
    def request_id(self) -> str:
        """As vLLM was told."""

    @property
    def new_token_ids(self) -> list[int]:
        """In order; several where vLLM speculates."""

    @property
    def finish_reason(self) -> object | None:
        """With the last tokens; its str() is a word."""


class Held:
    """Requests in the engine core. vLLM's ids must be new for ever, names are so only within a run."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._names: dict[str, int] = {}
        self._waiting: set[str] = set()
        self._num_added = 0

    def load(self) -> Load:
        """Count requests with a first token as running, the others as waiting."""
        return Load(len(self._names) - len(self._waiting), len(self._waiting))

    def add(self, name: int) -> str:
        """Take a request in; returns its id for vLLM."""
        self._num_added += 1
        request_id = f"{name}-{self._num_added}"
        self._names[request_id] = name
        self._waiting.add(request_id)
        return request_id

    def drop(self, names: Collection[int]) -> list[str]:
        """Forget requests by name; returns the ids of those that were here."""
        ids = [request_id for request_id, name in self._names.items() if name in names]
        for request_id in ids:
            del self._names[request_id]
        self._waiting.difference_update(ids)
        return ids

    def drop_all(self) -> list[str]:
        """Forget every request; returns their ids."""
        ids = list(self._names)
        self._names.clear()
        self._waiting.clear()
        return ids

    def take(self, outputs: Sequence[CoreOutput], produced_ns: int) -> Step | None:
        """Put a step into columns: the only Python that runs for each token.

        Args:
            outputs: One of each request of the step; what was dropped is left out.
            produced_ns: When they came.

        Returns:
            None where nothing is left.

        Raises:
            EngineDead: A request ended without an answer.
        """
        kept = [output for output in outputs if output.request_id in self._names]
        if not kept:
            return None
        ids = [output.request_id for output in kept]
        tokens = [output.new_token_ids for output in kept]
        ends = [row for row, output in enumerate(kept) if output.finish_reason is not None]
        counts = np.fromiter(map(len, tokens), np.uint32, len(kept))
        columns = TokenColumns(
            requests=np.fromiter(map(self._names.__getitem__, ids), np.uint64, len(kept)),
            counts=None if (counts == 1).all() else counts,
            tokens=np.fromiter(chain.from_iterable(tokens), np.int32, int(counts.sum())),
            finished_rows=np.array(ends, np.uint32),
            finish_reasons=np.array([_reason(kept[row]) for row in ends], np.uint8),
            produced_ns=produced_ns,
        )
        fresh = not self._waiting.isdisjoint(ids)
        if fresh:
            self._waiting.difference_update(ids)
        for row in ends:
            del self._names[ids[row]]
        return Step(columns, fresh or bool(ends))


def _reason(output: CoreOutput) -> int:
    word = str(output.finish_reason)
    if word not in _REASONS:
        raise EngineDead(f"request {output.request_id} ended with {word}")
    return _REASONS[word]
