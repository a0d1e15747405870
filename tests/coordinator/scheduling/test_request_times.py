"""Which times of a frame the scheduler keeps, for which request and on which stream."""

from typing import Any

import numpy as np
import pytest

from protos.columns import TokenColumns, TokenTimes
from tests.coordinator.scheduling.links import STOP, STOP_ID, frame
from tests.coordinator.scheduling.test_scheduler import Fleet


def timed(columns: TokenColumns, *times: Any) -> TokenColumns:
    """Add times to a frame."""
    return columns._replace(times=TokenTimes(*times))


def begins(fleet: Fleet, worker: int, stream: int = 0) -> list[list[int]]:
    """List what is kept of begins without the coordinator's own times: query, frame, and three more."""
    rows = np.array(fleet.loads[worker].request_times[stream].begins, np.int64).reshape(-1, 8)
    assert (rows[:, 1] > 0).all()
    # Only Server reports first tokens.
    assert ((rows[:, 2] >= rows[:, 1]) == fleet.reports.reports_first_tokens).all()
    assert (rows[:, 3] >= rows[:, 2]).all()
    found: list[list[int]] = rows[:, [0, 4, 5, 6, 7]].tolist()
    return found


def ends(fleet: Fleet, worker: int, stream: int = 0) -> list[list[int]]:
    """List what is kept of ends without the coordinator's own time: query, frame, last token."""
    rows = np.array(fleet.loads[worker].request_times[stream].ends, np.int64).reshape(-1, 5)
    assert (rows[:, 1] > 0).all()
    assert (rows[:, 2] >= rows[:, 1]).all()
    found: list[list[int]] = rows[:, [0, 3, 4]].tolist()
    return found


@pytest.mark.parametrize("server", [False, True])
def test_each_request_keeps_its_own_times(server: bool) -> None:
    """Two requests begin in one frame, one ends in the next; frames between them keep nothing."""
    fleet = Fleet(server, 8)
    fleet.issue(0, 3)
    a, b = fleet.links[0].sent.names
    # Query 1 is the frame's first row.
    both = frame([(b, [5]), (a, [6])])
    fleet.scheduler.deliver(0, timed(both, 90, [0, 1], [11, 10], [21, 20], [31, 30], []))
    assert begins(fleet, 0) == [[1, 90, 11, 21, 31], [0, 90, 10, 20, 30]]
    fleet.scheduler.deliver(0, frame([(a, [7]), (b, [8])]))
    fleet.scheduler.deliver(0, timed(frame([(a, [STOP_ID]), (b, [9])], {0: STOP}), 95, [], [], [], [], [94]))
    assert ends(fleet, 0) == [[0, 95, 94]]
    assert len(begins(fleet, 0)) == 2


def test_a_request_begins_once_though_a_second_worker_begins_it_too() -> None:
    """The first worker's times count; those of the second one are kept for what begins there."""
    fleet = Fleet(True, 8, 8)
    fleet.issue(0)
    (a,) = fleet.links[0].sent.names
    fleet.scheduler.deliver(0, timed(frame([(a, [5])]), 90, [0], [10], [20], [30], []))
    fleet.lose(0)
    fleet.issue(3)
    again, b = fleet.links[1].sent.names
    rows = frame([(again, [6]), (b, [7])])
    fleet.scheduler.deliver(1, timed(rows, 190, [0, 1], [110, 111], [120, 121], [130, 131], []))
    assert (begins(fleet, 0), begins(fleet, 1)) == ([[0, 90, 10, 20, 30]], [[1, 190, 111, 121, 131]])
    last = timed(frame([(again, [STOP_ID])], {0: STOP}), 195, [], [], [], [], [194])
    fleet.scheduler.deliver(1, last)
    assert (ends(fleet, 0), ends(fleet, 1)) == ([], [[0, 195, 194]])


def test_what_a_worker_does_not_tell_is_unknown() -> None:
    """A begin without times, one whose worker names another row, and an end without times: zeros."""
    fleet = Fleet(True, 8)
    fleet.issue(0, 3, 6)
    a, b, c = fleet.links[0].sent.names
    fleet.scheduler.deliver(0, frame([(a, [5])]))
    fleet.scheduler.deliver(0, timed(frame([(a, [6]), (b, [7])]), 90, [0], [10], [20], [30], []))
    assert begins(fleet, 0) == [[0, 0, 0, 0, 0], [1, 90, 0, 0, 0]]
    fleet.scheduler.deliver(0, frame([(a, [STOP_ID])], {0: STOP}))
    assert ends(fleet, 0) == [[0, 0, 0]]
    # A whole answer in one frame begins and ends.
    whole = frame([(c, [8, STOP_ID])], {0: STOP})
    fleet.scheduler.deliver(0, timed(whole, 99, [0], [12], [22], [32], [33]))
    assert (begins(fleet, 0)[2:], ends(fleet, 0)[1:]) == ([[2, 99, 12, 22, 32]], [[2, 99, 33]])


def test_a_new_stream_keeps_its_own_times() -> None:
    """A worker that comes back: its clock may be another one, so its times are kept apart."""
    fleet = Fleet(True, 8)
    fleet.issue(0)
    (a,) = fleet.links[0].sent.names
    fleet.scheduler.deliver(0, timed(frame([(a, [5])]), 90, [0], [10], [20], [30], []))
    fleet.lose(0)
    (again,) = fleet.readmit(0).names
    last = timed(frame([(again, [STOP_ID])], {0: STOP}), 9, [0], [1], [2], [3], [8])
    fleet.scheduler.deliver(0, last)
    assert (begins(fleet, 0), begins(fleet, 0, 1)) == ([[0, 90, 10, 20, 30]], [])
    assert (ends(fleet, 0), ends(fleet, 0, 1)) == ([], [[0, 9, 8]])
