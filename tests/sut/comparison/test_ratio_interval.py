"""Ratios with confidence intervals, by hand."""

import math

import pytest

from sut.results.comparison.ratio_interval import (
    RatioInterval,
    RepeatedFigure,
    ratio_interval,
    student_quantile,
)


@pytest.mark.parametrize(
    "degrees, expected",
    # Student's t, two-sided 5 %, from any printed table.
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (7, 2.365), (8, 2.306), (30, 2.042)],
)
def test_student_quantiles_are_those_of_the_table(degrees: int, expected: float) -> None:
    """The quantiles of Student's distribution equal those of printed tables."""
    assert round(student_quantile(0.05, degrees), 3) == expected


def test_without_drift_it_is_the_two_sample_interval() -> None:
    """Unknown start times: Student's two-sample interval with pooled variance, on logarithms."""
    # Logs of A: -x, +x, of B: d - x, d + x. Pooled variance: 4 x^2 / 2; error of the difference: sqrt(2 x^2).
    x, d = 0.01, 0.05
    a = RepeatedFigure([math.exp(-x), math.exp(x)], None)
    b = RepeatedFigure([math.exp(d - x), math.exp(d + x)], None)
    found = ratio_interval(a, b, 0.05)
    assert found is not None
    half = 4.302653 * math.sqrt(2) * x
    assert [math.log(value) for value in (found.ratio, found.low, found.high)] == pytest.approx(
        [d, d - half, d + half], abs=1e-6
    )
    assert (found.removes_drift, found.excludes_one) == (False, False)


def test_a_drift_is_not_a_difference() -> None:
    """Sides in turns, a machine that slows down by 1 % a run: the ratio is 1; the means differ by 1 %."""
    a = RepeatedFigure([math.exp(-0.01 * k) for k in (0, 2, 4)], [0.0, 2.0, 4.0])
    b = RepeatedFigure([math.exp(-0.01 * k) for k in (1, 3, 5)], [1.0, 3.0, 5.0])
    found = ratio_interval(a, b, 0.05)
    assert found is not None
    assert found.removes_drift
    assert found.ratio == pytest.approx(1.0, abs=1e-9)


def test_one_side_after_the_other_removes_no_drift() -> None:
    """All runs of A before those of B: a drift cannot be told from a difference, and none is estimated."""
    a = RepeatedFigure([1.0, 1.01, 0.99], [0.0, 1.0, 2.0])
    b = RepeatedFigure([1.0, 1.01, 0.99], [3.0, 4.0, 5.0])
    found = ratio_interval(a, b, 0.05)
    assert found is not None
    assert not found.removes_drift


def drift_of(a_starts: list[float] | None, b_starts: list[float] | None) -> bool:
    """Whether a drift is estimated from runs that began at these times."""
    sides = []
    for starts in (a_starts, b_starts):
        num = 3 if starts is None else len(starts)
        sides.append(RepeatedFigure([1.0, 1.01, 0.99, 1.02][:num], starts))
    found = ratio_interval(*sides, 0.05)
    assert found is not None
    return found.removes_drift


def test_a_drift_is_estimated_where_it_can_be_told_from_the_sides() -> None:
    """Three runs a side with known starts, of which not all are equal, and sides that alternate.

    Starts 0, 1, 2 and the same s later: their variance within a side is 2/3 and between the sides s^2 / 4, so
    the inflation 1 + (s^2 / 4) / (2/3) is at most 2 up to s = 1.633.
    """
    assert drift_of([0.0, 1.0, 2.0], [1.6, 2.6, 3.6])
    assert not drift_of([0.0, 1.0, 2.0], [1.7, 2.7, 3.7])
    assert not drift_of([0.0, 1.0, 2.0], None)
    assert not drift_of(None, [0.0, 1.0, 2.0])
    assert not drift_of([0.0, 2.0, 4.0], [1.0, 3.0])
    assert not drift_of([1.0, 3.0], [0.0, 2.0, 4.0])
    assert not drift_of([5.0, 5.0, 5.0], [5.0, 5.0, 5.0])


def test_sides_may_have_different_numbers_of_runs() -> None:
    """Logs 0 and 0.02 have the mean 0.01; 0.1, 0.1 and 0.13 have 0.11: the ratio is exp(0.1)."""
    a = RepeatedFigure([math.exp(log) for log in (0.0, 0.02)], None)
    b = RepeatedFigure([math.exp(log) for log in (0.1, 0.1, 0.13)], None)
    found = ratio_interval(a, b, 0.05)
    assert found is not None
    assert math.log(found.ratio) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("low", "high", "excluded"),
    [(1.0, 1.2, False), (0.8, 1.0, False), (1.000001, 1.2, True), (0.8, 0.999999, True)],
)
def test_an_interval_that_ends_at_one_does_not_exclude_it(low: float, high: float, excluded: bool) -> None:
    """Only a ratio whose interval lies on one side of 1 is more than noise."""
    assert RatioInterval(1.0, low, high, 0.95, removes_drift=False).excludes_one is excluded


def test_one_run_has_no_interval() -> None:
    """With one run a side there is no interval."""
    assert ratio_interval(RepeatedFigure([1.0], None), RepeatedFigure([1.1, 1.2], None), 0.05) is None


def central_probability(t: float, degrees: int, num_steps: int = 2000) -> float:
    """Integrate Student's density from -t to t by Simpson's rule."""
    scale = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2) / math.sqrt(degrees * math.pi)
    width = 2 * t / num_steps
    densities = [
        scale * (1 + (-t + i * width) ** 2 / degrees) ** (-(degrees + 1) / 2) for i in range(num_steps + 1)
    ]
    return width / 3 * (2 * sum(densities) + 2 * sum(densities[1::2]) - densities[0] - densities[-1])


@pytest.mark.parametrize("error_rate", [0.05, 0.02])
def test_the_interval_of_five_runs_a_side_is_that_of_textbook_sums(error_rate: float) -> None:
    """Two regressors by sums of squares and products, in plain Python; Student's density is integrated."""
    a, a_starts = [50.1, 49.8, 50.4, 50.0, 49.9], [0.0, 250.0, 470.0, 733.0, 950.0]
    b, b_starts = [51.7, 51.3, 51.9, 51.2, 51.6], [120.0, 361.0, 590.0, 850.0, 1100.0]
    found = ratio_interval(RepeatedFigure(a, a_starts), RepeatedFigure(b, b_starts), error_rate)
    assert found is not None
    assert found.removes_drift

    logs, sides, starts = [math.log(v) for v in a + b], [0.0] * 5 + [1.0] * 5, a_starts + b_starts

    def product(x: list[float], y: list[float]) -> float:
        x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
        return sum((i - x_mean) * (j - y_mean) for i, j in zip(x, y, strict=True))

    squares = product(sides, sides) * product(starts, starts) - product(sides, starts) ** 2
    effect = product(sides, logs) * product(starts, starts) - product(starts, logs) * product(sides, starts)
    drift = product(starts, logs) * product(sides, sides) - product(sides, logs) * product(sides, starts)
    difference, slope = effect / squares, drift / squares
    rest = product(logs, logs) - difference * product(sides, logs) - slope * product(starts, logs)
    error = math.sqrt(rest / 7 * product(starts, starts) / squares)
    assert math.log(found.ratio) == pytest.approx(difference, rel=1e-9)
    for end, sign in ((found.high, 1), (found.low, -1)):
        t = sign * (math.log(end) - difference) / error
        assert central_probability(t, 7) == pytest.approx(1 - error_rate, abs=1e-9)
