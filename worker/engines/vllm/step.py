"""Conversion of the step outputs of vLLM's engine core to columns."""

from collections.abc import Sequence
from typing import Protocol

from protos import worker_pb2 as pb
from worker.engine_protocol import EngineDead, Step
from worker.engines.model.engine_requests import EngineRequests

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


def to_step(requests: EngineRequests, outputs: Sequence[CoreOutput], produced_ns: int) -> Step | None:
    """Convert a step to columns; the only Python code that runs per token.

    Args:
        requests: The requests in the engine core; those that finish are removed.
        outputs: One per request of the step; outputs of removed requests are left out.
        produced_ns: When the outputs arrived.

    Returns:
        None if no output is left.

    Raises:
        EngineDead: vLLM ended a request without completing its answer.
    """
    names = requests.names
    kept = [output for output in outputs if output.request_id in names]
    if not kept:
        return None
    ids = [output.request_id for output in kept]
    tokens = [output.new_token_ids for output in kept]
    admitted_ns = {row: _admitted_ns(kept[row]) for row in requests.first_token_rows(ids, tokens)}
    ends = {row: _reason(output) for row, output in enumerate(kept) if output.finish_reason is not None}
    return requests.take_step(ids, tokens, admitted_ns, ends, produced_ns)


def _admitted_ns(output: CoreOutput) -> int:
    """Return when the engine core scheduled a request first; 0 if the output does not tell."""
    return next((int(event.timestamp * 1e9) for event in output.events or () if event.type == SCHEDULED), 0)


def _reason(output: CoreOutput) -> int:
    word = str(output.finish_reason)
    if word not in _REASONS:
        raise EngineDead(f"request {output.request_id} ended with {word}")
    return _REASONS[word]
