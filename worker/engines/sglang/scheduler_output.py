"""Conversion of the step outputs of SGLang's scheduler to columns."""

from array import array
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from protos import worker_pb2 as pb
from worker.engine_protocol import EngineDead, Step
from worker.engines.model.engine_requests import EngineRequests

FinishReason = Mapping[str, object]
"""As SGLang's scheduler sends it: "type" is stop, length or abort; "matched" is the stop id."""


class SchedulerOutput(NamedTuple):
    """The output of a step: three lists with one entry per request."""

    request_ids: Sequence[str]
    new_token_ids: Sequence["array[int]"]
    """In order; more than one with speculative decoding."""
    finish_reasons: Sequence[FinishReason | None]
    """Set with the last tokens."""


def to_step(
    requests: EngineRequests, stop_token_ids: Collection[int], output: SchedulerOutput, produced_ns: int
) -> Step | None:
    """Convert a step to columns; the only Python code that runs per token.

    Args:
        requests: The requests in the scheduler; those that finish are removed.
        stop_token_ids: Ids that may end an answer.
        output: The step; outputs of removed requests are left out.
        produced_ns: When it arrived.

    Returns:
        None if no output is left.

    Raises:
        EngineDead: SGLang ended a request without completing its answer.
    """
    names = requests.names
    kept = [row for row in zip(*output, strict=True) if row[0] in names]
    if not kept:
        return None
    ids = [request_id for request_id, _, _ in kept]
    tokens: list[Sequence[int]] = [new_token_ids for _, new_token_ids, _ in kept]
    ended = {row: reason for row, (_, _, reason) in enumerate(kept) if reason is not None}
    ends = {}
    for row, reason in ended.items():
        tokens[row] = _with_stop_id(tokens[row], reason)
        ends[row] = _finish_reason(requests, ids[row], tokens[row], reason, stop_token_ids)
    # SGLang tells when a prefill began only with --enable-metrics, then with each token of a request.
    admitted_ns = dict.fromkeys(requests.first_token_rows(ids, tokens), 0)
    return requests.take_step(ids, tokens, admitted_ns, ends, produced_ns)


def _with_stop_id(tokens: Sequence[int], reason: FinishReason) -> Sequence[int]:
    """Append the stop id that SGLang reports as matched, if the tokens do not end with it.

    For a token id outside the vocabulary SGLang also reports "stop", and a text as what matched.
    """
    matched = reason.get("matched")
    if type(matched) is not int or (tokens and tokens[-1] == matched):
        return tokens
    return [*tokens, matched]


def _finish_reason(
    requests: EngineRequests,
    request_id: str,
    tokens: Sequence[int],
    reason: FinishReason,
    stop_token_ids: Collection[int],
) -> int:
    """Return the finish reason of an answer that is complete, stop id included."""
    budget = requests.budgets[request_id]
    ends_with_stop_id = bool(tokens) and tokens[-1] in stop_token_ids
    if reason["type"] == "length" and reason["length"] == budget:
        # SGLang compares the length first; vLLM, and the other engines, the stop ids.
        return pb.FINISH_REASON_STOP if ends_with_stop_id else pb.FINISH_REASON_LENGTH
    if reason["type"] == "stop" and ends_with_stop_id and reason["matched"] == tokens[-1]:
        return pb.FINISH_REASON_STOP
    raise EngineDead(f"request {request_id} of {budget} tokens ended with {dict(reason)}")
