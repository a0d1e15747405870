"""Percentiles are LoadGen's, and without values every figure is 0."""

import numpy as np
import pytest

from sut.results.timing.spread import Spread, percentile


@pytest.mark.parametrize(
    ("count", "fraction", "rank"),
    [
        (1, 0.5, 0),
        (1, 0.999, 0),
        (2, 0.5, 1),
        (3, 0.5, 1),
        (100, 0.99, 99),
        (101, 0.99, 99),
        (1000, 0.9, 900),
    ],
)
def test_a_percentile_is_loadgens(count: int, fraction: float, rank: int) -> None:
    """sorted[int(count * fraction)]; the values are 10 times their rank, in descending order."""
    assert 10 * rank == percentile(np.arange(count)[::-1] * 10, fraction)


def test_no_values_have_no_figures() -> None:
    """Every figure is 0, and there are no percentiles of a spread."""
    none = np.empty(0, np.int64)
    assert 0 == percentile(none, 0.99)
    assert Spread(0, 0.0, 0, {}, 0) == Spread.of(none)


def test_a_spread_has_ends_mean_and_percentiles() -> None:
    """Of 1 to 1000: p50 is sorted[500] = 501, and p99.9 is sorted[999] = 1000."""
    marks = {"p50": 501, "p90": 901, "p95": 951, "p99": 991, "p99.9": 1000}
    assert Spread(1000, 500.5, 1, marks, 1000) == Spread.of(np.arange(1000, 0, -1))
