"""The next rate after each history, on engines whose ratio is a known function of the rate."""

import math
from collections.abc import Callable

import pytest

from tokenfleet.find_qps.rate_search import RatePoint, RateSearch, RunLengthKind, SearchStep, StepKind

Ratio = Callable[[float], float]


def searched(
    search: RateSearch, ratio: Ratio, short_error: float = 1.0
) -> tuple[SearchStep, list[RatePoint]]:
    """Search an engine whose short runs see its ratio times an error."""
    points: list[RatePoint] = []
    while (step := search.next_step(points)).kind in (StepKind.SHORT, StepKind.FULL):
        kind = RunLengthKind(step.kind)
        seen = ratio(step.target_qps) * (short_error if kind is RunLengthKind.SHORT else 1.0)
        points.append(RatePoint(step.target_qps, kind, math.log(seen), seen > 1.5))
        assert len(points) <= search.max_runs
    return step, points


def smooth(qps: float) -> float:
    """Latency that grows with the square of the rate and reaches the limit at 30 queries/s."""
    return (qps / 30) ** 2


def cliff(qps: float) -> float:
    """Latency that hardly grows until the engine is overloaded at 30 queries/s, and then without bound."""
    return 0.3 if qps <= 30 else 10.0


@pytest.mark.parametrize("max_qps", [None, 60.0, 31.0])
@pytest.mark.parametrize("ratio", [smooth, cliff])
@pytest.mark.parametrize("short_error", [0.9, 1.0, 1.1])
def test_a_search_confirms_a_rate_close_to_the_limit(
    ratio: Ratio, max_qps: float | None, short_error: float
) -> None:
    """Within 2 % below the limit, 5 % on a cliff, although short runs err by 10 %; the last run was VALID."""
    step, points = searched(RateSearch(15.0, max_qps, 8), ratio, short_error)
    assert StepKind.FOUND == step.kind
    assert (0.98 if ratio is smooth else 0.95) * 30 <= step.target_qps <= 30
    assert RatePoint(step.target_qps, RunLengthKind.FULL, math.log(ratio(step.target_qps))) in points


def test_a_lower_bound_that_is_not_valid_ends_the_search() -> None:
    """The rate is refused by a short run at it, or by a run of full length."""
    step, points = searched(RateSearch(31.0, None, 8), smooth)
    assert (StepKind.TOO_HIGH, 31.0, 1) == (*step, len(points))
    step, points = searched(RateSearch(33.0, 60.0, 8), smooth, short_error=0.8)
    assert (StepKind.TOO_HIGH, 33.0) == step
    assert RunLengthKind.FULL == points[-1].kind


def test_an_upper_bound_that_is_valid_is_the_result() -> None:
    """Nothing is run above --max-qps."""
    step, points = searched(RateSearch(10.0, 20.0, 8), smooth)
    assert (StepKind.FOUND, 20.0) == step
    assert 20.0 == max(point.target_qps for point in points)


def test_a_search_without_runs_left_says_so() -> None:
    """One run cannot be short: it confirms the lower bound; runs that all fail exhaust the search."""
    assert (StepKind.FOUND, 15.0) == searched(RateSearch(15.0, 60.0, 1), smooth)[0]
    step, points = searched(RateSearch(15.0, 60.0, 2), lambda qps: 1.2 if qps > 15 else 0.9)
    assert step.kind in (StepKind.FOUND, StepKind.EXHAUSTED)
    assert len(points) <= 2


def test_the_next_rate_depends_on_the_runs_alone() -> None:
    """Every prefix of a search's runs gives the run that followed: a search continues where it stopped."""
    search = RateSearch(15.0, 60.0, 8)
    _, points = searched(search, smooth, 1.1)
    for num, point in enumerate(points):
        assert (point.kind, point.target_qps) == search.next_step(points[:num])


def test_a_result_tells_whether_a_higher_rate_may_be_valid() -> None:
    """A search that closed in on the limit has no rate left; one that ran out of runs names its next one."""
    search = RateSearch(15.0, 60.0, 8)
    _, points = searched(search, smooth)
    assert search.untried_qps(points) is None
    # Two runs of full length: at 15, where the ratio is 0.25, and on the line of slope 1 from there at 60.
    short_search = RateSearch(15.0, 60.0, 2)
    step, points = searched(short_search, smooth)
    assert (StepKind.FOUND, 2) == (step.kind, len(points))
    untried = short_search.untried_qps(points)
    assert untried is not None
    assert step.target_qps < untried < 60
    highest = RateSearch(10.0, 20.0, 8)
    assert highest.untried_qps(searched(highest, smooth)[1]) is None
