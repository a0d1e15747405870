"""Queries that take too long are found once, under each of their names."""

import numpy as np

from coordinator.scheduling.overdue import Overdue, OverdueDetector
from coordinator.scheduling.request_columns import NewRequests
from coordinator.scheduling.request_table import RequestTable
from protos.columns import slots_of
from tests.coordinator.scheduling.links import STOP, frame

S = 1_000_000_000


class Watched:
    """A table and its watch, with a limit of 10 s."""

    def __init__(self) -> None:
        self.table = RequestTable(100, num_slots=4)
        self.detector = OverdueDetector(self.table, 10.0)

    def give(self, worker: int, at_s: int, *samples: int) -> tuple[list[int], list[int]]:
        """Give samples to a worker; returns slots and names."""
        column = np.array(samples, np.int64)
        new = NewRequests(column.astype(np.uint64), column, column + 1, 0 * column, at_s * S, column)
        names = self.table.assign(new, worker)
        return slots_of(names).tolist(), names.tolist()

    def look(self, at_s: float) -> list[int]:
        """List the slots that have become overdue."""
        return self.detector.find(int(at_s * S)).tolist()

    def describe(self, slot: int, at_s: int) -> Overdue:
        """Describe one request."""
        (found,) = self.detector.describe(np.array([slot]), ["worker-0:1", "worker-1:1"], at_s * S)
        return found


def test_an_overdue_query_is_found_once() -> None:
    """A request is found when its worker has had it for longer than the limit, and never again."""
    watched = Watched()
    (early,), _ = watched.give(0, 0, 5)
    (late,), _ = watched.give(1, 3, 6)
    assert ([], []) == (watched.look(9), watched.look(10))
    assert [early] == watched.look(10.5)
    assert ([], []) == (watched.look(11), watched.look(13))
    assert [late] == watched.look(14)
    assert [] == watched.look(1000)


def test_a_request_that_moved_is_found_again() -> None:
    """Its age begins with each worker, and under its new name it is found anew."""
    watched = Watched()
    (slot,), _ = watched.give(0, 0, 5)
    one = np.array([slot])
    assert [slot] == watched.look(11)
    watched.table.unassign(one)
    watched.table.reassign(one, 1, 12 * S)
    assert ([], []) == (watched.look(13), watched.look(22))
    assert [slot] == watched.look(23)
    assert ("worker-1:1", 11.0) == (watched.describe(slot, 23).worker, watched.describe(slot, 23).age_s)
    assert [] == watched.look(24)


def test_a_request_without_a_worker_is_not_overdue() -> None:
    """While it waits for a worker it is nobody's delay."""
    watched = Watched()
    (slot,), _ = watched.give(0, 0, 5)
    watched.table.unassign(np.array([slot]))
    assert [] == watched.look(1000)


def test_a_finished_request_is_not_overdue_and_its_slot_starts_anew() -> None:
    """What has finished is not found, and the next request in its slot has an age and tokens of its own."""
    watched = Watched()
    (slot,), (name,) = watched.give(0, 0, 5)
    watched.table.add_tokens(0, frame([(name, [1, 2])], {0: STOP}), 1)
    assert [] == watched.look(9)
    watched.table.finish([slot], [STOP], 10 * S)
    assert [] == watched.look(11)
    watched.table.take_answers()
    assert [slot] == watched.give(0, 12, 7)[0]
    assert ([], []) == (watched.look(12), watched.look(22))
    assert [slot] == watched.look(23)
    assert Overdue(7, "worker-0:1", 11.0, 0, 11.0) == watched.describe(slot, 23)


def test_the_last_token_is_told_to_the_second() -> None:
    """Time since the last token counts from the look that first saw it, or from when the worker got it."""
    watched = Watched()
    (a,), (name,) = watched.give(0, 0, 5)
    (b,), _ = watched.give(0, 2, 6)
    for second in range(1, 16):
        if second in (3, 7):
            watched.table.add_tokens(0, frame([(name, [1, 2])]), second * S)
        watched.look(second)
    assert Overdue(5, "worker-0:1", 15.0, 4, 15.0 - 7.0) == watched.describe(a, 15)
    assert Overdue(6, "worker-0:1", 13.0, 0, 13.0) == watched.describe(b, 15)
    assert "sample 5 on worker-0:1: 15 s old, 4 tokens, the last 8 s ago" == str(watched.describe(a, 15))


def test_more_slots_than_at_first_are_watched() -> None:
    """The watch grows with the table: nine requests in a table of four slots."""
    watched = Watched()
    assert [] == watched.look(1)
    slots, _ = watched.give(0, 1, *range(9))
    assert sorted(slots) == watched.look(12)
