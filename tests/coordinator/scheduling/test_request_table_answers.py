"""Answers are copied when they end, and each is taken once."""

import numpy as np
import pytest

import coordinator.scheduling.answer_buffer
from coordinator.scheduling.answer_buffer import AnswerBuffer
from coordinator.scheduling.request_table import RequestTable
from tests.coordinator.scheduling.test_request_table import LENGTH, STOP, assign, frame


def test_an_answer_stands_until_it_is_taken() -> None:
    """A slot serves another request at once, and the answer before it is taken whole, once, in order."""
    table = RequestTable(max_new_tokens=3, num_slots=2)
    (a, b), (name_a, name_b) = assign(table, 0, 7, 8)
    table.add_tokens(0, frame([(name_a, [1, 2, 3]), (name_b, [4])], {0: LENGTH, 1: STOP}), 1)
    table.finish([b, a], [STOP, LENGTH], 2)
    assert (2, 2, 0, []) == (
        table.num_untaken,
        table.num_done,
        table.num_in_flight,
        table.in_flight().tolist(),
    )
    (c,), (name_c,) = assign(table, 1, 9)
    assert c in (a, b)
    table.add_tokens(1, frame([(name_c, [9, 9, 9])]), 3)
    assert [[8, 7], [1, 3], [4, 1, 2, 3]] == [column.tolist() for column in table.take_answers()]
    assert [[], [], []] == [column.tolist() for column in table.take_answers()]


def test_answers_that_were_taken_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks of four tokens: what was taken stays; what spans blocks is whole."""
    monkeypatch.setattr(coordinator.scheduling.answer_buffer, "MIN_BLOCK_TOKENS", 4)
    buffer = AnswerBuffer(3)
    buffer.add(5, np.array([1, 2], np.int32))
    first = buffer.take()
    for sample, answer in ((6, [3]), (7, [4, 5, 6]), (8, []), (9, [7, 8])):
        buffer.add(sample, np.array(answer, np.int32))
    assert 4 == len(buffer)
    assert [[6, 7, 8, 9], [1, 3, 0, 2], [3, 4, 5, 6, 7, 8]] == [part.tolist() for part in buffer.take()]
    assert [[5], [2], [1, 2]] == [part.tolist() for part in first]
    assert 0 == len(buffer)
