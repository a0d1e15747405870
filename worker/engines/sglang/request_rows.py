"""The requests in SGLang's scheduler, and the conversion of its step outputs to columns."""

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from protos import worker_pb2 as pb
from protos.columns import TokenColumns
from worker.engine_protocol import EngineDead, Load, Step, step_times

FinishReason = Mapping[str, object]
"""As SGLang's scheduler sends it: "type" is stop, length or abort; "matched" is the stop id."""


class SchedulerOutput(NamedTuple):
    """The output of a step: three lists with one entry per request."""

    request_ids: Sequence[str]
    new_token_ids: Sequence["array[int]"]
    """In order; more than one with speculative decoding."""
    finish_reasons: Sequence[FinishReason | None]
    """Set with the last tokens."""


class _Request(NamedTuple):
    name: int
    budget: int


class RequestRows:
    """Requests in the scheduler by SGLang's id. Ids are unique per process, names only per run."""

    def __init__(self, stop_token_ids: Iterable[int] = ()) -> None:
        """Create an empty table.

        Args:
            stop_token_ids: Ids that may end an answer.
        """
        self._stop_token_ids = frozenset(stop_token_ids)
        self._requests: dict[str, _Request] = {}
        self._waiting: set[str] = set()
        self._num_added = 0

    def load(self) -> Load:
        """Count requests with a first token as running, the others as waiting."""
        return Load(len(self._requests) - len(self._waiting), len(self._waiting))

    def add(self, name: int, budget: int) -> str:
        """Add a request and return its id for SGLang, which is not the beginning of another id."""
        self._num_added += 1
        request_id = f"{self._num_added}-{name}."
        self._requests[request_id] = _Request(name, budget)
        self._waiting.add(request_id)
        return request_id

    def drop(self, names: Collection[int]) -> list[str]:
        """Remove requests by name; returns the ids of the requests removed."""
        ids = [request_id for request_id, request in self._requests.items() if request.name in names]
        for request_id in ids:
            del self._requests[request_id]
        self._waiting.difference_update(ids)
        return ids

    def drop_all(self) -> None:
        """Remove all requests."""
        self._requests.clear()
        self._waiting.clear()

    def take(self, output: SchedulerOutput, produced_ns: int) -> Step | None:
        """Convert a step to columns; the only Python code that runs per token.

        Args:
            output: The step; outputs of removed requests are left out.
            produced_ns: When it arrived.

        Returns:
            None if no output is left.

        Raises:
            EngineDead: SGLang ended a request without completing its answer.
        """
        requests = self._requests
        kept = [row for row in zip(*output, strict=True) if row[0] in requests]
        if not kept:
            return None
        ids = [request_id for request_id, _, _ in kept]
        tokens: list[Sequence[int]] = [new_token_ids for _, new_token_ids, _ in kept]
        ends = {row: reason for row, (_, _, reason) in enumerate(kept) if reason is not None}
        for row, reason in ends.items():
            tokens[row] = _with_stop_id(tokens[row], reason)
        reasons = [self._reason(ids[row], tokens[row], reason) for row, reason in ends.items()]
        counts = np.fromiter(map(len, tokens), np.uint32, len(kept))
        begun = self._begun_rows(ids, tokens)
        columns = TokenColumns(
            requests=np.fromiter((requests[request_id].name for request_id in ids), np.uint64, len(ids)),
            counts=None if (counts == 1).all() else counts,
            tokens=np.fromiter(chain.from_iterable(tokens), np.int32, int(counts.sum())),
            finished_rows=np.array(list(ends), np.uint32),
            finish_reasons=np.array(reasons, np.uint8),
            produced_ns=produced_ns,
            # SGLang tells when a prefill began only with --enable-metrics, then with each token of a request.
            times=step_times(begun, [0] * len(begun), len(ends), produced_ns),
        )
        self._waiting.difference_update([ids[row] for row in (*begun, *ends)])
        for row in ends:
            del requests[ids[row]]
        return Step(columns, bool(begun or ends))

    def _begun_rows(self, ids: Sequence[str], tokens: Sequence[Sequence[int]]) -> list[int]:
        """Return the rows with the first tokens of their request."""
        waiting = self._waiting
        if waiting.isdisjoint(ids):
            return []
        return [row for row, request_id in enumerate(ids) if request_id in waiting and tokens[row]]

    def _reason(self, request_id: str, tokens: Sequence[int], reason: FinishReason) -> int:
        """Return the finish reason of an answer that is complete, stop id included."""
        budget = self._requests[request_id].budget
        ends_with_stop_id = bool(tokens) and tokens[-1] in self._stop_token_ids
        if reason["type"] == "length" and reason["length"] == budget:
            # SGLang compares the length first; vLLM, and the other engines, the stop ids.
            return pb.FINISH_REASON_STOP if ends_with_stop_id else pb.FINISH_REASON_LENGTH
        if reason["type"] == "stop" and ends_with_stop_id and reason["matched"] == tokens[-1]:
            return pb.FINISH_REASON_STOP
        raise EngineDead(f"request {request_id} of {budget} tokens ended with {dict(reason)}")


def _with_stop_id(tokens: Sequence[int], reason: FinishReason) -> Sequence[int]:
    """Append the stop id that SGLang reports as matched, if the tokens do not end with it.

    For a token id outside the vocabulary SGLang also reports "stop", and a text as what matched.
    """
    matched = reason.get("matched")
    if type(matched) is not int or (tokens and tokens[-1] == matched):
        return tokens
    return [*tokens, matched]
