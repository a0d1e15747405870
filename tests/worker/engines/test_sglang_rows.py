"""Conversion of SGLang's step outputs, written by hand, to columns."""

from array import array
from typing import Any

import pytest

from protos import worker_pb2 as pb
from protos.columns import TokenTimes
from tests.worker.asks import rows_of
from worker.engine_protocol import EngineDead, Step
from worker.engines.model.engine_requests import EngineRequests
from worker.engines.sglang.scheduler_output import SchedulerOutput, to_step

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
END = 200_002


def take(rows: EngineRequests, *outputs: tuple[str, list[int], dict[str, Any] | None]) -> Step | None:
    """Take a step that arrived at 7 ns; answers may end with END or 9."""
    ids, tokens, reasons = zip(*outputs, strict=True)
    return to_step(rows, (END, 9), SchedulerOutput(ids, [array("q", row) for row in tokens], reasons), 7)


def ends_of(step: Step | None) -> dict[int, int]:
    """Return the finish reasons of a step by name."""
    assert step is not None
    columns = step.columns
    ended = columns.requests[columns.finished_rows].tolist()
    return dict(zip(ended, columns.finish_reasons.tolist(), strict=True))


def test_ids_are_new_for_each_request_and_begin_no_other() -> None:
    """SGLang aborts every request whose id begins with the one given."""
    rows = EngineRequests()
    ids = [rows.add(name, 5) for name in (1, 11, 111, 1)]
    assert 4 == len(set(ids))
    assert [] == [(a, b) for a in ids for b in ids if a != b and b.startswith(a)]


def test_a_row_has_one_token_or_several() -> None:
    """One each: no counts; else counts; a request that is not known is left out; the admission is unknown."""
    rows = EngineRequests()
    a, b = rows.add(1, 9), rows.add(2**40, 9)
    step = take(rows, (a, [10], None), ("other", [5], None), (b, [20], None))
    assert step is not None
    assert step.columns.counts is None
    assert ({1: [10], 2**40: [20]}, True) == (rows_of(step), step.urgent)
    assert TokenTimes(0, [0, 1], [0, 0], [0, 0], [7, 7], []) == step.columns.times
    step = take(rows, (b, [21, 22, 23], None), (a, [], None))
    assert step is not None
    assert ({1: [], 2**40: [21, 22, 23]}, False) == (rows_of(step), step.urgent)
    assert None is take(rows, ("other", [5], None))


def test_a_stop_id_that_sglang_reports_is_the_last_token() -> None:
    """Whether SGLang sends it with the tokens or only as what matched; nothing is added otherwise."""
    rows = EngineRequests()
    a, b, c, d = (rows.add(name, 5) for name in (1, 2, 3, 4))
    step = take(
        rows,
        (a, [10, END], {"type": "stop", "matched": END}),
        (b, [20], {"type": "stop", "matched": 9}),
        (c, [], {"type": "stop", "matched": END}),
        (d, [1, 2, 3, 4, 5], {"type": "length", "length": 5}),
    )
    assert step is not None
    assert {1: [10, END], 2: [20, 9], 3: [END], 4: [1, 2, 3, 4, 5]} == rows_of(step)
    assert {1: STOP, 2: STOP, 3: STOP, 4: LENGTH} == ends_of(step)
    assert (0, 0) == rows.load()[:2]


def test_a_stop_id_at_the_budget_ends_as_stop() -> None:
    """SGLang compares the length first; every other engine the stop id."""
    rows = EngineRequests()
    a = rows.add(1, 2)
    assert {1: STOP} == ends_of(take(rows, (a, [10, END], {"type": "length", "length": 2})))


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ({"type": "abort", "message": "Aborted"}, "abort"),
        # What SGLang reports for a token id outside the vocabulary.
        ({"type": "stop", "matched": "NaN happened"}, "NaN happened"),
        # A stop id of SGLang that the worker has not reported.
        ({"type": "stop", "matched": 4}, "'matched': 4"),
        # A budget that SGLang has cut.
        ({"type": "length", "length": 4}, "of 5 tokens"),
    ],
    ids=["abort", "nan", "other-stop-id", "cut"],
)
def test_an_answer_that_is_not_complete_is_a_loss(reason: dict[str, Any], says: str) -> None:
    """The coordinator then repeats the requests elsewhere; the reason is named."""
    rows = EngineRequests()
    a = rows.add(1, 5)
    with pytest.raises(EngineDead, match=says):
        take(rows, (a, [10, END], reason))


def test_dropped_requests_are_not_heard_of() -> None:
    """Their ids are returned for the abort; the end that SGLang reports for them is ignored."""
    rows = EngineRequests()
    a, b = rows.add(1, 5), rows.add(2, 5)
    assert [a] == rows.drop({1, 3})
    assert (0, 1) == rows.load()[:2]
    step = take(rows, (a, [10], {"type": "abort"}), (b, [20], None))
    assert step is not None
    assert {2: [20]} == rows_of(step)
    rows.drop_all()
    assert None is take(rows, (b, [21], {"type": "abort"}))
