"""The official score projected from graded rows, and its interval."""

import math

import numpy as np
import pytest

from tokenfleet.qualify.graded_rows import score_weights
from tokenfleet.qualify.score_interval import (
    Stratum,
    divide_sample,
    project_score,
    wilson_interval,
    worse_by_chance,
)


def test_the_interval_of_a_fraction_is_wilsons() -> None:
    """8 of 10 at z = 2: center (0.8 + 0.2) / 1.4, half width 2 / 1.4 * sqrt(0.016 + 0.01)."""
    interval = wilson_interval(8, 10, 2.0)
    assert (0.8, 1 / 1.4) == (interval.estimate, pytest.approx((interval.low + interval.high) / 2))
    assert pytest.approx(2 / 1.4 * math.sqrt(0.026)) == (interval.high - interval.low) / 2


def test_a_fraction_of_one_has_an_upper_limit_of_one() -> None:
    """3 of 3 at z = 2: the lower limit is 1 / (1 + 4/3)."""
    interval = wilson_interval(3, 3, 2.0)
    assert (1.0, pytest.approx(3 / 7)) == (interval.high, interval.low)


def test_the_weights_are_the_questions_of_each_data_set() -> None:
    """240 rows of 8 repeats, 990 of 5 and 3,165 of 3 are 30, 198 and 1,055 of 1,283 questions."""
    expected = {"aime25": 30 / 1283, "gpqa_diamond": 198 / 1283, "livecodebench_v6": 1055 / 1283}
    assert expected == pytest.approx(score_weights())


def test_one_stratum_has_wilsons_interval() -> None:
    """With a single data set the stratified interval is that of the fraction."""
    assert pytest.approx(tuple(wilson_interval(70, 100))) == tuple(project_score([Stratum(1.0, 70, 100)]))


def test_equal_strata_have_about_the_interval_of_their_sum() -> None:
    """Two halves of 50 rows each give about the interval of 100 rows, not that of 50."""
    whole, halves = wilson_interval(80, 100), project_score([Stratum(0.5, 40, 50), Stratum(0.5, 40, 50)])
    assert pytest.approx(tuple(whole), abs=0.005) == tuple(halves)


@pytest.mark.parametrize("fractions", [(0.9, 0.75, 0.85), (0.6, 0.6, 0.6), (0.83, 0.83, 0.83)])
def test_the_interval_holds_the_true_score_in_about_95_percent(fractions: tuple[float, ...]) -> None:
    """Of 2,000 simulated samples of 5, 15 and 80 rows at least 93 % have the true score in their interval."""
    weights, sizes = list(score_weights().values()), (5, 15, 80)
    true_score = sum(weight * fraction for weight, fraction in zip(weights, fractions, strict=True))
    drawn = np.random.default_rng(7).binomial(sizes, fractions, size=(2000, 3)).tolist()
    intervals = [project_score([*map(Stratum, weights, counts, sizes)]) for counts in drawn]
    held = sum(interval.low <= true_score <= interval.high for interval in intervals)
    assert 0.93 <= held / len(intervals)


def test_rows_are_divided_by_weight_with_a_minimum() -> None:
    """Of 100 rows AIME has 2.3 and gets the minimum of 5, GPQA gets 15, LiveCodeBench the remaining 80."""
    assert {"aime25": 5, "gpqa_diamond": 15, "livecodebench_v6": 80} == divide_sample(100, score_weights(), 5)
    assert {"aime25": 13, "gpqa_diamond": 87} == divide_sample(
        100, {"aime25": 30 / 1283, "gpqa_diamond": 198 / 1283}, 5
    )


@pytest.mark.parametrize("lost, gained, chance", [(0, 0, 1.0), (3, 0, 1 / 8), (3, 1, 5 / 16), (5, 0, 1 / 32)])
def test_the_chance_of_as_many_losses_is_the_sign_tests(lost: int, gained: int, chance: float) -> None:
    """Of 4 changed rows at least 3 losses happen in 4 + 1 of 16 cases."""
    assert chance == worse_by_chance(lost, gained)
