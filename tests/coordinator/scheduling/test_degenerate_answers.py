"""Counts of answers that repeat one token, and of equal answers to different prompts."""

import numpy as np

from coordinator.scheduling.degenerate_answers import DegenerateAnswers
from tests.coordinator.scheduling.links import dataset

DIFFERENT = dataset(*([3, i] for i in range(10)))


def add(counted: DegenerateAnswers, *answers: tuple[int, list[int]]) -> tuple[int, int]:
    """Add answers, given as (sample, tokens); returns both counts."""
    counted.add(
        np.array([sample for sample, _ in answers], np.int64),
        np.array([len(tokens) for _, tokens in answers], np.int64),
        np.array([token for _, tokens in answers for token in tokens], np.int32),
    )
    return counted.num_repeated, counted.num_equal


def test_an_answer_of_one_repeated_token_is_counted() -> None:
    """Eight equal tokens, or seven and a stop id; not seven tokens, not one that differs inside."""
    counted = DegenerateAnswers(DIFFERENT, 100)
    assert (1, 0) == add(counted, (0, [5] * 8), (1, [5] * 7), (2, []), (3, list(range(9))))
    assert (2, 0) == add(counted, (4, [0] * 7 + [99]))
    assert (2, 0) == add(counted, (5, [0] * 6 + [1, 0]), (6, [1] + [0] * 8), (7, [0] * 4 + [1] + [0] * 9))
    assert (2, 0) == add(counted)
    assert (2, 0) == add(counted, (8, [1, 2]))


def test_equal_answers_to_different_samples_are_counted() -> None:
    """The second and the third of three equal answers count; a sample's own answer may come again."""
    counted = DegenerateAnswers(DIFFERENT, 100)
    first, second = list(range(8)), list(range(1, 9))
    assert (0, 1) == add(counted, (0, first), (1, second), (2, first))
    assert (0, 2) == add(counted, (3, first), (0, first), (1, second))
    # Seven tokens are too few to say anything.
    assert (0, 2) == add(counted, (4, [1, 2, 3, 4, 5, 6, 7]), (5, [1, 2, 3, 4, 5, 6, 7]))
    assert (0, 2) == add(counted, (6, [*first, 8]), (7, [*first[:7], 9]))


def test_equal_answers_to_equal_prompts_are_not_counted() -> None:
    """Rows 0, 2 and 3 have one prompt; only the answer to row 1 is that to another prompt."""
    counted = DegenerateAnswers(dataset([3, 7], [3, 8], [3, 7], [3, 7], [4, 7]), 100)
    answer = list(range(8))
    assert (0, 0) == add(counted, (2, answer), (0, answer), (3, answer))
    assert (0, 1) == add(counted, (1, answer))


def test_equal_prompts_do_not_excuse_equal_answers_to_different_ones() -> None:
    """Four prompts, four times each: a model that gives 12 of 16 one answer has 8 that count."""
    counted = DegenerateAnswers(dataset(*([3, i % 4] for i in range(16))), 100)
    answers = [(row, list(range(8)) if row % 4 < 3 else list(range(row, row + 8))) for row in range(16)]
    assert (0, 8) == add(counted, *answers)


def test_answers_that_a_short_budget_cuts_off_are_not_compared() -> None:
    """At a budget of 63 equal answers of 63 tokens do not count, those of 62 do; at 64 those of 64 do."""
    counted = DegenerateAnswers(DIFFERENT, 63)
    assert (0, 0) == add(counted, (0, list(range(63))), (1, list(range(63))))
    assert (0, 1) == add(counted, (2, list(range(62))), (3, list(range(62))))
    assert (1, 1) == add(counted, (4, [0] * 63))
    counted = DegenerateAnswers(DIFFERENT, 64)
    assert (0, 1) == add(counted, (0, list(range(64))), (1, list(range(64))))
