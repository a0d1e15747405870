"""The requests in vLLM's engine core, and the conversion of its step outputs to columns."""

from collections.abc import Collection, Sequence
from itertools import chain
from typing import Protocol

import numpy as np

from protos import worker_pb2 as pb
from protos.columns import TokenColumns
from worker.engine_protocol import EngineDead, Load, Step, step_times

# Keys are the str() of vLLM's FinishReason, which it documents. The other reasons (abort, error, repetition)
# do not complete an answer.
SCHEDULED = 2
"""EngineCoreEventType.SCHEDULED of vLLM 0.25.1 and 0.32.0."""
_REASONS = {"stop": pb.FINISH_REASON_STOP, "length": pb.FINISH_REASON_LENGTH}


class CoreEvent(Protocol):
    """An event of a request: vLLM's EngineCoreEvent."""

    @property
    def type(self) -> int:
        """A value of vLLM's EngineCoreEventType."""

    @property
    def timestamp(self) -> float:
        """Monotonic clock, in seconds."""


class CoreOutput(Protocol):
    """The output of a step for one request: vLLM's EngineCoreOutput."""

    @property
    def request_id(self) -> str:
        """Id given to vLLM."""

    @property
    def new_token_ids(self) -> list[int]:
        """In order; more than one with speculative decoding."""

    @property
    def finish_reason(self) -> object | None:
        """Set with the last tokens; its str() is the reason."""

    @property
    def events(self) -> Sequence["CoreEvent"] | None:
        """What happened to the request since its last output; None without vLLM's statistics."""


class CoreRequests:
    """Requests in the engine core by vLLM's id. vLLM ids are unique per process, names only per run."""

    def __init__(self) -> None:
        """Create an empty table."""
        self._names: dict[str, int] = {}
        self._waiting: set[str] = set()
        self._num_added = 0

    def load(self) -> Load:
        """Count requests with a first token as running, the others as waiting."""
        return Load(len(self._names) - len(self._waiting), len(self._waiting))

    def add(self, name: int) -> str:
        """Add a request and return its id for vLLM."""
        self._num_added += 1
        request_id = f"{name}-{self._num_added}"
        self._names[request_id] = name
        self._waiting.add(request_id)
        return request_id

    def drop(self, names: Collection[int]) -> list[str]:
        """Remove requests by name; returns the ids of the requests removed."""
        ids = [request_id for request_id, name in self._names.items() if name in names]
        for request_id in ids:
            del self._names[request_id]
        self._waiting.difference_update(ids)
        return ids

    def drop_all(self) -> list[str]:
        """Remove all requests; returns their ids."""
        ids = list(self._names)
        self._names.clear()
        self._waiting.clear()
        return ids

    def take(self, outputs: Sequence[CoreOutput], produced_ns: int) -> Step | None:
        """Convert a step to columns; the only Python code that runs per token.

        Args:
            outputs: One per request of the step; outputs of removed requests are left out.
            produced_ns: When the outputs arrived.

        Returns:
            None if no output is left.

        Raises:
            EngineDead: vLLM ended a request without completing its answer.
        """
        kept = [output for output in outputs if output.request_id in self._names]
        if not kept:
            return None
        ids = [output.request_id for output in kept]
        tokens = [output.new_token_ids for output in kept]
        ends = [row for row, output in enumerate(kept) if output.finish_reason is not None]
        counts = np.fromiter(map(len, tokens), np.uint32, len(kept))
        begun = self._begun_rows(kept)
        columns = TokenColumns(
            requests=np.fromiter(map(self._names.__getitem__, ids), np.uint64, len(kept)),
            counts=None if (counts == 1).all() else counts,
            tokens=np.fromiter(chain.from_iterable(tokens), np.int32, int(counts.sum())),
            finished_rows=np.array(ends, np.uint32),
            finish_reasons=np.array([_reason(kept[row]) for row in ends], np.uint8),
            produced_ns=produced_ns,
            times=step_times(begun, [_admitted_ns(kept[row]) for row in begun], len(ends), produced_ns),
        )
        self._waiting.difference_update([ids[row] for row in (*begun, *ends)])
        for row in ends:
            del self._names[ids[row]]
        return Step(columns, bool(begun or ends))

    def _begun_rows(self, outputs: Sequence[CoreOutput]) -> list[int]:
        """Return the rows with the first tokens of their request."""
        waiting = self._waiting
        if waiting.isdisjoint([output.request_id for output in outputs]):
            return []
        return [
            r for r, output in enumerate(outputs) if output.request_id in waiting and output.new_token_ids
        ]


def _admitted_ns(output: CoreOutput) -> int:
    """Return when the engine core scheduled a request first; 0 if the output does not tell."""
    return next((int(event.timestamp * 1e9) for event in output.events or () if event.type == SCHEDULED), 0)


def _reason(output: CoreOutput) -> int:
    word = str(output.finish_reason)
    if word not in _REASONS:
        raise EngineDead(f"request {output.request_id} ended with {word}")
    return _REASONS[word]
