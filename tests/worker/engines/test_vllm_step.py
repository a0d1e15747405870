"""Conversion of vLLM's step outputs, written by hand, to columns."""

from typing import NamedTuple

import numpy as np
import pytest

from protos import worker_pb2 as pb
from protos.columns import TokenTimes
from worker.engine_protocol import EngineDead, Load, Step
from worker.engines.model.engine_requests import EngineRequests
from worker.engines.vllm.step import to_step

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH


class Output(NamedTuple):
    """The output of a step for one request."""

    request_id: str
    new_token_ids: list[int]
    finish_reason: str | None = None
    events: list["Event"] | None = None


class Event(NamedTuple):
    """An event of a request."""

    type: int
    timestamp: float


def test_the_first_schedule_of_a_request_is_its_admission() -> None:
    """Event 2 of vLLM, in seconds, becomes ns; without it the admission is unknown; later steps: no times."""
    held = EngineRequests()
    a, b, c = (held.add(name, 9) for name in (1, 2, 3))
    queued = [Event(1, 1.0), Event(2, 1.5), Event(3, 1.75), Event(2, 2.0)]
    begun = to_step(held, [Output(a, [10], events=queued), Output(c, []), Output(b, [20])], 2_500_000_000)
    assert begun is not None
    first = [2_500_000_000] * 2
    assert begun.columns.times == TokenTimes(0, [0, 2], [0, 0], [1_500_000_000, 0], first, [])
    later = to_step(held, [Output(a, [11]), Output(b, [21])], 3)
    assert later is not None
    assert later.columns.times is None
    ended = to_step(held, [Output(c, [30]), Output(a, [12], "stop")], 4)
    assert ended is not None
    assert ended.columns.times == TokenTimes(0, [0], [0], [0], [4], [4])


def rows(step: Step | None) -> list[tuple[int, list[int], int | None]]:
    """Read a step back, row by row: name, tokens, reason."""
    assert step is not None
    requests, counts, tokens, finished, reasons, *_ = step.columns
    counts = np.ones(len(requests), np.uint32) if counts is None else counts
    parts = np.split(tokens, np.cumsum(counts)[:-1])
    ends = dict(zip(finished.tolist(), reasons.tolist(), strict=True))
    return [
        (name, part.tolist(), ends.get(row))
        for row, (name, part) in enumerate(zip(requests.tolist(), parts, strict=True))
    ]


def test_step_of_one_token_each_needs_no_counts() -> None:
    """First tokens are urgent, the next ones are not; the names are the coordinator's."""
    held = EngineRequests()
    ids = [held.add(name, 9) for name in (7, 1 << 33)]
    assert Load(0, 2) == held.load()
    first = to_step(held, [Output(ids[0], [5]), Output(ids[1], [6])], 5)
    assert [(7, [5], None), (1 << 33, [6], None)] == rows(first)
    assert first is not None
    assert (None, 5, True, Load(2, 0)) == (
        first.columns.counts,
        first.columns.produced_ns,
        first.urgent,
        held.load(),
    )
    second = to_step(held, [Output(ids[1], [8])], 5)
    assert [(1 << 33, [8], None)] == rows(second)
    assert second is not None
    assert not second.urgent


def test_end_is_urgent_and_its_request_is_gone() -> None:
    """Reasons become the protocol's; several tokens of a row stay together; an end may have none."""
    held = EngineRequests()
    a, b, c = (held.add(name, 9) for name in (1, 2, 3))
    to_step(held, [Output(a, [10]), Output(b, [20]), Output(c, [30])], 5)
    step = to_step(held, [Output(a, [11, 12], "stop"), Output(b, [21]), Output(c, [], "length")], 5)
    assert [(1, [11, 12], STOP), (2, [21], None), (3, [], LENGTH)] == rows(step)
    assert step is not None
    assert (True, Load(1, 0)) == (step.urgent, held.load())
    assert to_step(held, [Output(a, [13])], 5) is None


def test_dropped_request_says_nothing_more() -> None:
    """Late outputs of a dropped id are left out, also when its name is in use again."""
    held = EngineRequests()
    old = held.add(1, 9)
    other = held.add(2, 9)
    assert [old] == held.drop({1, 99})
    new = held.add(1, 9)
    assert old != new
    assert [(2, [5], None), (1, [6], None)] == rows(
        to_step(held, [Output(old, [4]), Output(other, [5]), Output(new, [6])], 5)
    )
    assert [other, new] == held.drop_all()
    assert to_step(held, [Output(other, [7]), Output(new, [8])], 5) is None
    assert Load(0, 0) == held.load()


@pytest.mark.parametrize("reason", ["abort", "error", "repetition"])
def test_end_that_is_no_answer_kills_the_engine(reason: str) -> None:
    """A request that vLLM aborted is an EngineDead, not an answer."""
    held = EngineRequests()
    request_id = held.add(1, 9)
    with pytest.raises(EngineDead, match=f"^request {request_id} ended with {reason}$"):
        to_step(held, [Output(request_id, [], reason)], 5)
