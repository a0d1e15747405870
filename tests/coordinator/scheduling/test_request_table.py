"""The table: every token lies where its request's tokens lie, and a bad frame leaves no trace."""

import ctypes
from collections.abc import Callable

import numpy as np
import pytest

from coordinator.scheduling.request_columns import DONE, Arrivals, NewRequests
from coordinator.scheduling.request_table import NO_WORKER, RequestTable
from protos import worker_pb2 as pb
from protos.columns import AnswerRules, FrameError, TokenColumns, slots_of

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
GENERATION = 1 << 32


def assign(table: RequestTable, worker: int, *ids: int) -> tuple[list[int], list[int]]:
    """Assign requests with sample = id and prompt length = 10 * id; returns slots and names."""
    column = np.array(ids, np.int64)
    zeros = np.zeros(len(ids), np.int64)
    names = table.assign(
        NewRequests(column.astype(np.uint64), column, 10 * column, zeros + 5, 6, column), worker
    )
    return slots_of(names).tolist(), names.tolist()


def frame(
    rows: list[tuple[int, list[int]]], ends: dict[int, int] | None = None, ones: bool = False
) -> TokenColumns:
    """Make a frame of (name, new tokens) rows; `ends` maps a row to its reason; `ones` leaves out counts."""
    ends = ends or {}
    counts = None if ones else np.array([len(new) for _, new in rows], np.uint32)
    return TokenColumns(
        requests=np.array([name for name, _ in rows], np.uint64),
        counts=counts,
        tokens=np.array([token for _, new in rows for token in new], np.int32),
        finished_rows=np.array(sorted(ends), np.uint32),
        finish_reasons=np.array([ends[row] for row in sorted(ends)], np.uint8),
        produced_ns=0,
    )


def tokens_of(table: RequestTable, slot: int) -> list[int]:
    """Read a request's tokens where LoadGen would: count * 4 bytes from its address."""
    _, (address,), (count,) = table.reportable([slot])
    raw = ctypes.string_at(address, 4 * count)
    return [int.from_bytes(raw[i : i + 4], "little", signed=True) for i in range(0, len(raw), 4)]


def as_lists(arrivals: Arrivals) -> list[list[int]]:
    """Turn arrivals into first slots, finished slots and reasons."""
    return [arrivals.first_slots, arrivals.finished_slots, arrivals.finish_reasons]


def finish(table: RequestTable, slot: int, reason: int = STOP, now_ns: int = 0) -> None:
    """Finish one request."""
    table.finish([slot], [reason], now_ns)
    table.take_answers()


def test_tokens_of_interleaved_frames_land_where_they_belong() -> None:
    """Three requests' tokens, mixed over frames with and without counts, come out whole and in order."""
    table = RequestTable(max_new_tokens=4, num_slots=4)
    (a, b, c), (name_a, name_b, name_c) = assign(table, 0, 1, 2, 3)
    first = table.add_tokens(0, frame([(name_c, [30]), (name_a, [10])], ones=True), 100)
    second = table.add_tokens(
        0, frame([(name_a, [11, 12]), (name_b, [20, 21, 22]), (name_c, [31])], {2: STOP}), 200
    )
    third = table.add_tokens(0, frame([(name_b, [23]), (name_a, [13])], {0: LENGTH, 1: STOP}, ones=True), 300)
    assert tokens_of(table, a) == [10, 11, 12, 13]
    assert tokens_of(table, b) == [20, 21, 22, 23]
    assert tokens_of(table, c) == [30, 31]
    assert [[c, a], [], []] == as_lists(first)
    assert [[b], [c], [STOP]] == as_lists(second)
    assert [[], [b, a], [LENGTH, STOP]] == as_lists(third)
    assert table.num_tokens == 10
    # Prompts are 10, 20 and 30 long: c and a answer first, then b.
    assert [30 + 10, 20, 0] == [arrivals.prefilled_tokens for arrivals in (first, second, third)]


def test_an_answer_may_fill_its_budget_and_touch_no_neighbour() -> None:
    """Requests in all slots that each fill their whole budget keep their own tokens."""
    table = RequestTable(max_new_tokens=3, num_slots=4)
    slots, names = assign(table, 0, 1, 2, 3, 4)
    table.add_tokens(0, frame([(name, [name, name + 10, name + 20]) for name in reversed(names)]), 1)
    assert [[name, name + 10, name + 20] for name in names] == [tokens_of(table, slot) for slot in slots]


def test_the_largest_and_the_negative_token_survive() -> None:
    """Token ids keep all their 32 bits."""
    table = RequestTable(max_new_tokens=2, num_slots=1)
    (slot,), (name,) = assign(table, 0, 1)
    table.add_tokens(0, frame([(name, [2**31 - 1, -(2**31)])]), 1)
    assert tokens_of(table, slot) == [2**31 - 1, -(2**31)]


def test_growth_keeps_tokens_names_and_generations() -> None:
    """Requests in flight outlive four doublings with tokens, ids, names and the generation of a used slot."""
    table = RequestTable(max_new_tokens=1000, num_slots=1)
    (old,), _ = assign(table, 0, 99)
    finish(table, old)
    (slot,), (name,) = assign(table, 0, 1)
    assert (old, old + GENERATION) == (slot, name)
    table.add_tokens(0, frame([(name, list(range(500)))]), 1)
    others, other_names = assign(table, 1, *range(2, 17))
    assert len({slot, *others}) == 16
    assert table.num_in_flight == 16
    table.add_tokens(1, frame([(n, [n, n + 1]) for n in other_names]), 2)
    table.add_tokens(0, frame([(name, list(range(500, 1000)))], {0: LENGTH}), 3)
    assert list(range(1000)) == tokens_of(table, slot)
    assert [[n, n + 1] for n in other_names] == [tokens_of(table, s) for s in others]
    assert [1, *range(2, 17)] == table.reportable([slot, *others]).loadgen_ids
    assert [10, 20] == table.rows(np.array([slot, others[0]]))["prompt_len"].tolist()


def test_a_slot_is_reused_under_another_name() -> None:
    """A finished request's slot serves the next one, from its first token, with a higher generation."""
    table = RequestTable(max_new_tokens=4, num_slots=1)
    (slot,), (name,) = assign(table, 0, 7)
    table.add_tokens(0, frame([(name, [1, 2, 3, 4])], {0: LENGTH}), 1)
    finish(table, slot)
    assert table.num_in_flight == 0
    (again,), (new_name,) = assign(table, 1, 8)
    assert (slot, name + GENERATION) == (again, new_name)
    arrivals = table.add_tokens(1, frame([(new_name, [9])], ones=True), 2)
    assert [[slot], [], []] == as_lists(arrivals)
    assert tokens_of(table, slot) == [9]
    assert table.reportable([slot]).loadgen_ids == [8]


@pytest.mark.parametrize(
    "bad, message",
    [
        (lambda n: frame([(n["a"], [9]), (n["old"], [9])]), "does not hold"),
        (lambda n: frame([(n["a"], [9]), (n["future"], [9])]), "does not hold"),
        (lambda n: frame([(n["a"], [9]), (n["other"], [9])]), "does not hold"),
        (lambda n: frame([(n["a"], [9]), (n["free"], [9])]), "does not hold"),
        (lambda n: frame([(n["a"], [9]), (n["free"], [])], {1: STOP}), "does not hold"),
        (lambda n: frame([(n["a"], [9]), (n["b"], [9]), (n["a"], [9])]), "two rows of one request"),
        (lambda n: frame([(n["a"], [9]), (n["a"], [])], {1: STOP}), "two rows of one request"),
        (lambda n: frame([(n["a"], [9]), (8, [9])]), "slot 8 of 8"),
        (lambda n: frame([(n["a"], [9]), (0xFFFFFFFF, [9])]), "slot 4294967295 of 8"),
        (lambda n: frame([(n["b"], [9]), (n["a"], [9, 9, 9])]), "an answer beyond 3 tokens"),
        (lambda n: frame([(n["full"], [9])], ones=True), "an answer beyond 3 tokens"),
        (lambda n: frame([(n["b"], [9]), (n["a"], [9])], {1: LENGTH}), "LENGTH at 2 of 3 tokens"),
        (lambda n: frame([(n["b"], [9]), (n["a"], [])], {1: STOP}), "ends with STOP"),
        (lambda n: frame([(n["a"], [9])], {0: LENGTH}), "LENGTH at 2 of 3 tokens"),
        (lambda n: frame([(n["a"], [])], {0: STOP}), "ends with STOP"),
    ],
    ids=[
        "late frame of an older generation",
        "generation that is not there yet",
        "another worker's request",
        "free slot",
        "end of a free slot",
        "two rows",
        "two rows, one of them empty",
        "slot beyond the table",
        "largest slot",
        "budget overrun by a row of several",
        "budget overrun by one",
        "LENGTH below the budget",
        "STOP without a stop id",
        "LENGTH below the budget, alone",
        "STOP without a stop id, alone",
    ],
)
def test_a_bad_frame_leaves_nothing_behind(
    bad: Callable[[dict[str, int]], TokenColumns], message: str
) -> None:
    """One bad row raises FrameError naming the worker, and none of the frame's rows is written."""
    table = RequestTable(max_new_tokens=3, num_slots=8, rules=AnswerRules(100, (99,)))
    (slot_old,), (name_old,) = assign(table, 0, 50)
    finish(table, slot_old)
    mine, (name_a, name_b, name_full) = assign(table, 0, 1, 2, 4)
    (slot_other,), (name_other,) = assign(table, 1, 3)
    slots = [*mine, slot_other]
    names = {"a": name_a, "b": name_b, "full": name_full, "other": name_other, "old": name_old}
    names |= {"future": name_a + GENERATION, "free": max(set(range(8)) - set(slots))}
    table.add_tokens(0, frame([(name_a, [1]), (name_b, [2]), (name_full, [3, 4, 5])]), 11)
    before = [tokens_of(table, slot) for slot in slots]
    with pytest.raises(FrameError, match=message):
        table.add_tokens(0, bad(names), 99)
    assert before == [tokens_of(table, slot) for slot in slots]
    assert sum(map(len, before)) == table.num_tokens
    assert (table.num_in_flight, table.num_done) == (4, 1)
    table.add_tokens(1, frame([(name_other, [7])], ones=True), 13)
    assert tokens_of(table, slot_other) == [7]


def test_the_arena_is_untouched_by_a_refused_overrun() -> None:
    """A row beyond its budget does not reach into the slot that follows, whose tokens stay."""
    table = RequestTable(max_new_tokens=2, num_slots=2)
    slots, names = assign(table, 0, 1, 2)
    table.add_tokens(0, frame([(name, [5, 6]) for name in names]), 1)
    for name in names:
        with pytest.raises(FrameError, match="an answer beyond 2 tokens"):
            table.add_tokens(0, frame([(name, [8, 8])]), 2)
    assert [tokens_of(table, slot) for slot in slots] == [[5, 6], [5, 6]]


def test_an_answer_without_tokens_finishes_without_a_first_token() -> None:
    """A finished row of 0 tokens ends its request: no first token, count 0, first_ns 0 in the record."""
    table = RequestTable(max_new_tokens=2, num_slots=2)
    (slot,), (name,) = assign(table, 0, 1)
    arrivals = table.add_tokens(0, frame([(name, [])], {0: STOP}), 100)
    assert [[], [slot], [STOP]] == as_lists(arrivals)
    assert 10 == arrivals.prefilled_tokens
    assert table.reportable([slot]).counts == [0]
    finish(table, slot, now_ns=101)
    assert tuple(table.done[0][["num_tokens", "first_ns", "done_ns"]].tolist()) == (0, 0, 101)


def test_a_frame_without_rows_is_nothing() -> None:
    """A frame without rows is accepted and changes nothing."""
    table = RequestTable(max_new_tokens=2, num_slots=2)
    assign(table, 0, 1)
    assert as_lists(table.add_tokens(0, frame([], ones=True), 1)) == [[], [], []]
    assert as_lists(table.add_tokens(0, frame([]), 1)) == [[], [], []]
    assert (table.num_tokens, table.num_in_flight) == (0, 1)


def test_the_record_of_a_finished_request_is_whole() -> None:
    """The record lists requests in order of completion; tokens after the first move no first_ns."""
    table = RequestTable(max_new_tokens=4, num_slots=4)
    (a, b), (name_a, name_b) = assign(table, 2, 3, 4)
    table.add_tokens(2, frame([(name_a, [1]), (name_b, [1])], ones=True), 100)
    table.add_tokens(2, frame([(name_a, [2, 3])]), 200)
    finish(table, b, LENGTH, 300)
    finish(table, a, STOP, 400)
    names = (
        "sample",
        "worker",
        "reason",
        "losses",
        "prompt_len",
        "num_tokens",
        "issued_ns",
        "sent_ns",
        "first_ns",
        "done_ns",
        "query",
    )
    assert names == DONE.names
    assert table.done.tolist() == [
        (4, 2, LENGTH, 0, 40, 1, 5, 6, 100, 300, 4),
        (3, 2, STOP, 0, 30, 3, 5, 6, 100, 400, 3),
    ]


def test_the_record_of_a_continued_request_tells_of_both_workers() -> None:
    """What it keeps: first token, issue and first sending. What is the last worker's: worker."""
    table = RequestTable(max_new_tokens=4, num_slots=4)
    (slot,), (name,) = assign(table, 0, 3)
    one = np.array([slot])
    table.add_tokens(0, frame([(name, [1, 2])]), 100)
    table.unassign(one)
    assert [] == table.held_by(0).tolist()
    assert [slot] == table.in_flight().tolist()
    (new_name,) = table.reassign(one, 1, 200).tolist()
    assert name + GENERATION == new_name
    assert [slot] == table.held_by(1).tolist()
    assert 30 + 2 == table.rows(one)["prefill_len"][0]
    for worker, old in ((0, name), (1, name), (0, new_name)):
        with pytest.raises(FrameError, match=f"^worker {worker}: tokens of a request that it does not hold"):
            table.add_tokens(worker, frame([(old, [9])]), 250)
    arrivals = table.add_tokens(1, frame([(new_name, [3])], {0: STOP}), 300)
    # No first token: LoadGen has it. The worker had the prompt and both tokens to prefill.
    assert ([[], [slot], [STOP]], 30 + 2) == (as_lists(arrivals), arrivals.prefilled_tokens)
    assert tokens_of(table, slot) == [1, 2, 3]
    finish(table, slot, STOP, 400)
    assert table.done.tolist() == [(3, 1, STOP, 1, 30, 3, 5, 6, 100, 400, 3)]


def test_the_record_grows_beyond_the_slots() -> None:
    """One slot serves 100 requests in turn, and all of them are on record in order."""
    table = RequestTable(max_new_tokens=1, num_slots=1)
    for number in range(100):
        (slot,), (name,) = assign(table, 0, number)
        table.add_tokens(0, frame([(name, [number])], {0: LENGTH}, ones=True), number)
        finish(table, slot, LENGTH, number)
    assert list(range(100)) == table.done["sample"].tolist()
    assert table.done["num_tokens"].tolist() == [1] * 100
    assert (table.num_done, table.num_in_flight) == (100, 0)
    assert NO_WORKER not in table.done["worker"]


def test_names_of_a_fleet_never_meet() -> None:
    """Names of requests in flight are distinct, and each is its slot while its generation is 0."""
    table = RequestTable(max_new_tokens=1, num_slots=2)
    slots, names = assign(table, 0, *range(1, 10))
    assert len(set(names)) == 9
    assert names == slots
