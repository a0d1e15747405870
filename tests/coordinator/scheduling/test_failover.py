"""Requests that change their worker: what the next one is sent, what is left of the first one's frames."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.scheduling.failover import Continuation, Failover, Loss, interleave
from coordinator.scheduling.request_columns import NewRequests
from coordinator.scheduling.request_table import NO_WORKER, RequestTable
from coordinator.scheduling.worker_load import WorkerLoad, drop_rows
from protos.columns import PromptColumns, TokenColumns, slots_of
from tests.coordinator.scheduling.links import LENGTH, STOP, FakeLink, dataset, frame

MODEL = settings(max_examples=150)
lists = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5)
rows_of = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), lists, st.sampled_from([None, STOP, LENGTH])),
    max_size=8,
    unique_by=lambda row: row[0],
)
BUDGET = 5
PROMPTS = [[10, 11, 12], [20], [30, 31]]


def joined(rows: list[list[int]]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Put lists end to end."""
    return np.array([token for row in rows for token in row], np.int32)


def lens(rows: list[list[int]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Measure lists."""
    return np.array([len(row) for row in rows], np.int64)


def unfold(columns: TokenColumns) -> list[tuple[int, list[int], int | None]]:
    """Turn a frame into rows of name, tokens and end."""
    counts = [1] * len(columns.requests) if columns.counts is None else columns.counts.tolist()
    tokens = iter(columns.tokens.tolist())
    reasons = dict(zip(columns.finished_rows.tolist(), columns.finish_reasons.tolist(), strict=True))
    rows = enumerate(zip(columns.requests.tolist(), counts, strict=True))
    unfolded = [(name, [next(tokens) for _ in range(count)], reasons.get(row)) for row, (name, count) in rows]
    assert [] == list(tokens)
    return unfolded


def sent(prompts: PromptColumns) -> list[tuple[list[int], int, int]]:
    """Turn prompts into prompt, budget and produced of each."""
    parts = np.split(prompts.prompt_tokens, np.cumsum(prompts.prompt_lens)[:-1].astype(np.int64))
    columns = zip(parts, prompts.max_new_tokens.tolist(), prompts.produced.tolist(), strict=True)
    return [(part.tolist(), budget, produced) for part, budget, produced in columns]


@MODEL
@given(st.lists(st.tuples(lists, lists), max_size=8))
def test_each_answer_stands_behind_its_prompt(pairs: list[tuple[list[int], list[int]]]) -> None:
    """Joining row by row is joining all prompts and all answers at once; either may be empty."""
    prompts, answers = [prompt for prompt, _ in pairs], [answer for _, answer in pairs]
    whole = [token for prompt, answer in pairs for token in prompt + answer]
    assert whole == interleave(joined(prompts), lens(prompts), joined(answers), lens(answers)).tolist()


@MODEL
@given(rows_of, st.data())
def test_a_frame_without_some_requests_is_the_others_rows(
    rows: list[tuple[int, list[int], int | None]], data: st.DataObject
) -> None:
    """Rows, tokens and ends of the others stay as they were, in order; the rest is counted."""
    names = [name for name, _, _ in rows]
    gone = {name for name in names if data.draw(st.booleans())} | data.draw(
        st.sets(st.integers(0, 2**64 - 1), max_size=3)
    )
    ends = {row: reason for row, (_, _, reason) in enumerate(rows) if reason is not None}
    whole = frame([(name, new) for name, new, _ in rows], ends)
    left, num_dropped = drop_rows(whole, gone)
    assert [row for row in rows if row[0] not in gone] == unfold(left)
    assert num_dropped == sum(len(new) for name, new, _ in rows if name in gone)


@MODEL
@given(st.lists(st.integers(0, 9), max_size=8, unique=True), st.sets(st.integers(0, 9)))
def test_a_frame_of_ones_keeps_its_ones(names: list[int], gone: set[int]) -> None:
    """A frame without counts, one token a row, loses the same rows."""
    ones = frame([(name, [name + 100]) for name in names])._replace(counts=None)
    left, num_dropped = drop_rows(ones, gone)
    assert [(name, [name + 100], None) for name in names if name not in gone] == unfold(left)
    assert num_dropped == len(gone & set(names))


class Moving:
    """Three requests of samples 0, 1 and 2 on worker 0, and worker 1 to go to."""

    def __init__(self) -> None:
        self.table = RequestTable(BUDGET, num_slots=4)
        self.failover = Failover(self.table, dataset(*PROMPTS), BUDGET, max_losses=3)
        self.loads = [WorkerLoad(FakeLink(0)), WorkerLoad(FakeLink(1))]
        samples, zeros = np.arange(3), np.zeros(3, np.int64)
        new = NewRequests(samples.astype(np.uint64), samples, np.array([3, 1, 2]), zeros, 0, samples)
        names = self.table.assign(new, worker=0)
        self.slots, self.names = slots_of(names), names.tolist()


def test_a_continued_prompt_is_the_prompt_and_the_tokens_received() -> None:
    """Prompt, then what came; the budget is what remains; `produced` is what came; all in order."""
    moving = Moving()
    a, b, _ = moving.names
    moving.table.add_tokens(0, frame([(b, [1]), (a, [2, 3])]), 5)
    complete = moving.failover.take_from(moving.loads[0], moving.slots, "it broke", 70)
    assert ([], 3) == (complete.tolist(), len(moving.failover))
    first = moving.failover.give(moving.loads[1], 2, 80, alone=False)
    assert [([10, 11, 12, 2, 3], 3, 2), ([20, 1], 4, 1)] == sent(first)
    assert moving.table.names(moving.slots[:2]).tolist() == first.requests.tolist()
    assert [1, 1, NO_WORKER] == moving.table.rows(moving.slots)["worker"].tolist()
    assert 1 == len(moving.failover)
    second = moving.failover.give(moving.loads[1], 1, 90, alone=False)
    assert [([30, 31], 5, 0)] == sent(second)
    assert ([80, 80, 90], 0) == (
        moving.table.rows(moving.slots)["given_ns"].tolist(),
        len(moving.failover),
    )


def test_a_loss_and_its_continuations_are_on_record() -> None:
    """Who was lost when and why, with how many requests and tokens; each request's way, with its losses."""
    moving = Moving()
    a, b, _ = moving.names
    moving.table.add_tokens(0, frame([(b, [1]), (a, [2, 3])]), 5)
    moving.failover.take_from(moving.loads[0], moving.slots, "it broke", 70)
    moving.failover.give(moving.loads[1], 3, 80, alone=False)
    moving.failover.take_from(moving.loads[1], moving.slots[1:], "it too", 90)
    moving.failover.give(moving.loads[0], 1, 100, alone=False)
    # Prompts of 3, 1 and 2 tokens; then only those of 1 and 2.
    assert moving.failover.losses == [
        Loss("worker-0:1", 70, "it broke", 3, 3, 6 + 3),
        Loss("worker-1:1", 90, "it too", 2, 1, 3 + 1),
    ]
    assert moving.failover.continuations == [
        Continuation(0, 1, 2, "worker-0:1", "worker-1:1", 80),
        Continuation(1, 1, 1, "worker-0:1", "worker-1:1", 80),
        Continuation(2, 1, 0, "worker-0:1", "worker-1:1", 80),
        Continuation(1, 2, 1, "worker-1:1", "worker-0:1", 100),
    ]


def test_a_move_is_no_loss() -> None:
    """A request that is taken from a worker that goes on is on record, and no worker was lost."""
    moving = Moving()
    moving.failover.take_from(moving.loads[0], moving.slots[:1], "overdue", 70, is_move=True)
    assert [True] == [loss.is_move for loss in moving.failover.losses]
    assert 0 == moving.failover.num_losses
    moving.failover.take_from(moving.loads[0], moving.slots[1:], "it broke", 80)
    assert 1 == moving.failover.num_losses


def test_an_answer_of_the_whole_budget_is_complete() -> None:
    """Nothing may be asked for a request whose budget is used up: it is returned and does not wait."""
    moving = Moving()
    a, b, c = moving.names
    moving.table.add_tokens(0, frame([(a, [1, 2, 3, 4]), (b, [1, 2, 3, 4, 5]), (c, [])]), 5)
    complete = moving.failover.take_from(moving.loads[0], moving.slots, "it broke", 70)
    assert [moving.slots[1]] == complete.tolist()
    given = moving.failover.give(moving.loads[1], len(moving.failover), 80, alone=False)
    assert [([10, 11, 12, 1, 2, 3, 4], 1, 4), ([30, 31], 5, 0)] == sent(given)
    loss = moving.failover.losses[0]
    assert (3, 4 + 5) == (loss.requests, loss.kept_tokens)


def test_a_worker_without_requests_is_a_loss_of_none() -> None:
    """A loss is on record though nothing moves."""
    moving = Moving()
    nothing = moving.slots[:0]
    assert [] == moving.failover.take_from(moving.loads[1], nothing, "it broke", 70).tolist()
    assert [Loss("worker-1:1", 70, "it broke", 0, 0, 0)] == moving.failover.losses
    assert 0 == len(moving.failover)


def test_tokens_of_many_workers_come_out_as_one_answer() -> None:
    """An answer of which each worker brought a part is whole, and each was asked for the rest alone."""
    moving = Moving()
    one, name = moving.slots[:1], moving.names[0]
    for turn in range(1, 5):
        here, there = (turn + 1) % 2, turn % 2
        moving.table.add_tokens(here, frame([(name, [turn])]), turn)
        moving.failover.take_from(moving.loads[here], one, "again", turn)
        prompts = moving.failover.give(moving.loads[there], 1, turn, alone=False)
        assert [(PROMPTS[0] + list(range(1, turn + 1)), BUDGET - turn, turn)] == sent(prompts)
        (name,) = prompts.requests.tolist()
    arrivals = moving.table.add_tokens(0, frame([(name, [5])], {0: STOP}), 9)
    assert (one.tolist(), []) == (arrivals.finished_slots, arrivals.first_slots)
    assert [1, 2, 3, 4, 5] == moving.table.answers(one)[1].tolist()
    assert [(4, 1)] == moving.table.rows(one)[["losses", "first_ns"]].tolist()


def test_what_is_complete_is_not_sent_again() -> None:
    """Of prompts of 3, 1 and 2 tokens the second has its whole budget of 5: 3 + 2 tokens are sent again."""
    moving = Moving()
    _, b, _ = moving.names
    moving.table.add_tokens(0, frame([(b, [1, 2, 3, 4, 5])]), 5)
    moving.failover.take_from(moving.loads[0], moving.slots, "it broke", 70)
    assert 3 + 2 == moving.failover.losses[0].resent_tokens
