"""Counts of answers that repeat one token, and of equal answers to different samples."""

import numpy as np

from coordinator.scheduling.degenerate_answers import DegenerateAnswers


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
    counted = DegenerateAnswers()
    assert (1, 0) == add(counted, (0, [5] * 8), (1, [5] * 7), (2, []), (3, list(range(9))))
    assert (2, 0) == add(counted, (4, [0] * 7 + [99]))
    assert (2, 0) == add(counted, (5, [0] * 6 + [1, 0]), (6, [1] + [0] * 8), (7, [0] * 4 + [1] + [0] * 9))
    assert (2, 0) == add(counted)
    assert (2, 0) == add(counted, (8, [1, 2]))


def test_equal_answers_to_different_samples_are_counted() -> None:
    """The second and the third of three equal answers count; a sample's own answer may come again."""
    counted = DegenerateAnswers()
    first, second = list(range(8)), list(range(1, 9))
    assert (0, 1) == add(counted, (0, first), (1, second), (2, first))
    assert (0, 2) == add(counted, (3, first), (0, first), (1, second))
    # Seven tokens are too few to say anything.
    assert (0, 2) == add(counted, (4, [1, 2, 3, 4, 5, 6, 7]), (5, [1, 2, 3, 4, 5, 6, 7]))
    assert (0, 2) == add(counted, (6, [*first, 8]), (7, [*first[:7], 9]))
