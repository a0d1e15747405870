"""Merging steps: each request has one row, its tokens in order, and its end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.columns import TokenColumns, TokenTimes
from tests.worker.test_outbox import LENGTH, STOP, columns, ends_of, rows_of
from worker.outbox import merge, split


def test_merging_keeps_each_request_in_order() -> None:
    """Three steps of three requests become one row each, oldest tokens first, with their ends and reasons."""
    merged = merge(
        [
            columns([(9, [1]), (5, [2]), (7, [3])]),
            columns([(7, [4, 5]), (9, []), (5, [6])], {9: STOP}),
            columns([(5, [7]), (7, [8])], {7: LENGTH}),
        ]
    )
    assert rows_of(merged) == {9: [1], 5: [2, 6, 7], 7: [3, 4, 5, 8]}
    assert ends_of(merged) == {9: STOP, 7: LENGTH}


def test_merging_keeps_an_answer_without_tokens() -> None:
    """A request that ends with 0 tokens has a row of count 0 after the merge, also as its only row."""
    merged = merge([columns([(5, [1])]), columns([(4, [])], {4: STOP})])
    assert rows_of(merged) == {5: [1], 4: []}
    assert ends_of(merged) == {4: STOP}
    merged = merge([columns([]), columns([(4, [])], {4: STOP})])
    assert rows_of(merged) == {4: []}


def test_merging_one_step_changes_nothing() -> None:
    """A single step is its own merge, counts left out included."""
    step = columns([(5, [1]), (3, [2])], {3: STOP})
    assert merge([step]) is step


def test_merging_steps_of_the_same_requests_keeps_their_order() -> None:
    """Three steps of the same two rows: each request's tokens in order, the last step's end on its row."""
    rows = [[(9, [1]), (5, [2])], [(9, [3]), (5, [4])], [(9, [5]), (5, [6])]]
    merged = merge([columns(rows[0]), columns(rows[1]), columns(rows[2], {5: STOP})])
    assert rows_of(merged) == {9: [1, 3, 5], 5: [2, 4, 6]}
    assert ends_of(merged) == {5: STOP}


@pytest.mark.parametrize(
    "second",
    [
        columns([(5, [4]), (9, [3])]),  # another order
        columns([(9, [3, 7]), (5, [])]),  # as many tokens, but not one each
        columns([(9, [3]), (6, [4])]),  # another request
    ],
)
def test_merging_steps_of_as_many_tokens_does_not_mix_them(second: TokenColumns) -> None:
    """Steps with equal numbers of tokens but different rows give each request its own tokens."""
    expected = {9: [1], 5: [2]}
    for name, tokens in rows_of(second).items():
        expected[name] = expected.get(name, []) + tokens
    assert expected == rows_of(merge([columns([(9, [1]), (5, [2])]), second]))


def test_merging_finds_all_ones_again() -> None:
    """Steps of different requests with a token each need no counts."""
    assert merge([columns([(5, [1])]), columns([(3, [2])])]).counts is None


def timed(
    step: TokenColumns, first_rows: list[int], begun: list[tuple[int, int, int]], *last: int
) -> TokenColumns:
    """Add times to a step: received, admitted and first of each first row, and the last of each end."""
    received, admitted, first = (
        (list(column) for column in zip(*begun, strict=True)) if begun else ([], [], [])
    )
    return step._replace(times=TokenTimes(0, first_rows, received, admitted, first, list(last)))


def test_merging_keeps_the_times_with_their_rows() -> None:
    """Steps of different requests, merged in order of names: each begin and each end keeps its times."""
    merged = merge(
        [
            timed(columns([(9, [1]), (5, [2])], {9: STOP}), [0, 1], [(91, 92, 93), (51, 52, 53)], 99),
            columns([(5, [3])]),
            timed(columns([(7, [4]), (5, [6])], {5: STOP}), [0], [(71, 72, 73)], 59),
        ]
    )
    # In order of names: 5, 7, 9.
    assert merged.times == TokenTimes(0, [0, 1, 2], [51, 71, 91], [52, 72, 92], [53, 73, 93], [59, 99])


def test_merging_steps_of_the_same_requests_keeps_the_times() -> None:
    """The first step's begins and the last step's ends; steps without any times have none together."""
    rows = [(9, [1]), (5, [2])]
    first = timed(columns(rows), [1], [(51, 52, 53)])
    last = timed(columns(rows, {9: STOP}), [], [], 99)
    assert merge([first, columns(rows), last]).times == TokenTimes(0, [1], [51], [52], [53], [99])
    assert merge([first, columns(rows)]).times == first.times
    assert merge([columns(rows), last]).times == last.times
    assert merge([columns(rows), columns(rows)]).times is None
    # An engine that knows no times: its ends get unknown ones if another step has times.
    unknown = columns([(3, [1])], {3: STOP})
    assert merge([first, unknown]).times == TokenTimes(0, [1], [51], [52], [53], [0])


def test_splitting_keeps_the_times_with_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of three rows that is cut after each row: every piece has the times of its row."""
    monkeypatch.setattr("worker.outbox.MAX_FRAME_BYTES", 25)
    step = timed(
        columns([(9, [1]), (5, [2]), (7, [3])], {9: STOP, 7: LENGTH}),
        [1, 2],
        [(51, 52, 53), (71, 72, 73)],
        99,
        79,
    )
    assert [piece.times for piece in split(step)] == [
        TokenTimes(0, [], [], [], [], [99]),
        TokenTimes(0, [0], [51], [52], [53], []),
        TokenTimes(0, [0], [71], [72], [73], [79]),
    ]


ANSWERS = st.lists(
    st.tuples(st.lists(st.integers(0, 9), max_size=6), st.sampled_from([STOP, LENGTH])),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150)
@given(ANSWERS, st.data())
def test_any_steps_merge_to_the_answers(answers: list[tuple[list[int], int]], data: st.DataObject) -> None:
    """However answers are cut into steps, their merge gives back every answer and its reason."""
    left = {name << 32 | name: list(tokens) for name, (tokens, _) in enumerate(answers)}
    reasons = {name << 32 | name: reason for name, (_, reason) in enumerate(answers)}
    steps: list[TokenColumns] = []
    whole = {name: list(tokens) for name, tokens in left.items()}
    while left:
        rows, ends = [], {}
        for name in data.draw(st.permutations(sorted(left))):
            num = data.draw(st.integers(0, len(left[name])))
            new, left[name] = left[name][:num], left[name][num:]
            if not left[name] and data.draw(st.booleans()):
                ends[name] = reasons[name]
                del left[name]
            if new or name in ends:
                rows.append((name, new))
        steps.append(columns(rows, ends))
        if not rows:
            name, tokens = left.popitem()
            steps.append(columns([(name, tokens)], {name: reasons[name]}))
    merged = merge(steps)
    assert whole == rows_of(merged)
    assert reasons == ends_of(merged)
    ends_column = merged.finished_rows.tolist()
    assert ends_column == sorted(ends_column)
