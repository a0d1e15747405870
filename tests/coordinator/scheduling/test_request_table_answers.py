"""Answers stay in the arena until they are taken, whoever wants their slots."""

from coordinator.scheduling.request_table import RequestTable
from tests.coordinator.scheduling.test_request_table import LENGTH, STOP, assign, frame


def test_an_answer_stands_until_it_is_taken() -> None:
    """A slot serves another request only once its answer was taken, and each answer is taken once."""
    table = RequestTable(max_new_tokens=3, num_slots=2)
    (a, b), (name_a, name_b) = assign(table, 0, 7, 8)
    table.add_tokens(0, frame([(name_a, [1, 2, 3]), (name_b, [4])], {0: LENGTH, 1: STOP}), 1)
    table.finish([b, a], [STOP, LENGTH], 2)
    assert (2, 2, 0, []) == (
        table.num_untaken,
        table.num_done,
        table.num_running,
        table.in_flight().tolist(),
    )
    (c,), (name_c,) = assign(table, 1, 9)
    assert c not in (a, b)
    table.add_tokens(1, frame([(name_c, [9, 9, 9])]), 3)
    assert [[8, 7], [1, 3], [4, 1, 2, 3]] == [column.tolist() for column in table.take_answers()]
    assert [[], [], []] == [column.tolist() for column in table.take_answers()]
    assert {a, b} < set(assign(table, 0, 1, 2, 3)[0])
