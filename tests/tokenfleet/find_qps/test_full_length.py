"""What a short run says about a full one: computed by hand for queries with known latencies."""

import math

import numpy as np

from sut.run_length import RunLength
from tokenfleet.find_qps.full_length import ServedQueries, full_length_ratio


def served(ratios: list[float], latency_s: float = 0.0) -> ServedQueries:
    """Make queries that are issued once a second, with these ratios of TTFT and half of TPOT."""
    column = np.array(ratios)
    num = len(ratios)
    return ServedQueries(np.arange(num, dtype=np.float64), np.full(num, latency_s), column, column / 2)


def test_the_number_of_queries_is_what_loadgen_issues() -> None:
    """Whole multiples of the data set for at least the minimum duration, or as many as that takes."""
    whole = RunLength(600.0, 100, 6396, 0.99)
    assert [6396, 6396, 12792] == [whole.num_queries(qps) for qps in (1, 10.6, 10.7)]
    assert [45, 101] == [whole.allowed(qps) for qps in (1, 12)]
    single = RunLength(10.0, 300, 1, 0.99)
    assert [300, 1000] == [single.num_queries(qps) for qps in (1, 100)]


def test_a_run_of_full_length_stands_for_itself() -> None:
    """With two queries allowed over the limit, the third largest latency decides; ties count each."""
    ratios = [0.1] * 95 + [3.0, 2.0, 0.9, 0.8, 0.7]
    assert 0.9 == full_length_ratio(served(ratios), 100, 2)
    assert 3.0 == full_length_ratio(served(ratios), 100, 0)
    assert 0.1 == full_length_ratio(served(ratios), 100, 5)
    assert 2.0 == full_length_ratio(served([0.1] * 97 + [2.0] * 3), 100, 2)


def test_a_run_of_too_few_queries_is_never_valid() -> None:
    """LoadGen's early stopping calls none of 458 queries VALID, however fast they are, and 459 if all are."""
    few, enough = (RunLength(1.0, num, 1, 0.99) for num in (458, 459))
    assert math.inf == full_length_ratio(served([0.1] * 458), 458, few.allowed(1.0))
    assert 0.1 == full_length_ratio(served([0.1] * 459), 459, enough.allowed(1.0))


def test_the_longer_of_ttft_and_tpot_decides() -> None:
    """Each has its own limit, and each may be exceeded by the allowed number."""
    queries = served([1.0, 2.0, 3.0])
    assert 3.0 == full_length_ratio(queries, 3, 0)
    assert 9.0 == full_length_ratio(queries._replace(tpot_ratio=np.array([9.0, 1.0, 1.0])), 3, 0)


def test_the_middle_of_a_short_run_stands_for_the_rest_of_the_full_one() -> None:
    """Of 100 queries the first and last 10 are within the time that the system fills: they count once.

    The 80 others stand for 1000 - 20 = 980 of the full run, 12.25 each. Three of them over the limit are
    36.75 queries, one of the edges is 1.
    """
    ratios = [0.5] * 100
    ratios[3] = ratios[97] = 4.0
    for middle in (20, 40, 60):
        ratios[middle] = 2.0
    queries = served(ratios, latency_s=9.5)
    # Both edges are over 2.0: 2 queries; with the three of the middle 38.75.
    assert 4.0 == full_length_ratio(queries, 1000, 1)
    assert 2.0 == full_length_ratio(queries, 1000, 2)
    assert 2.0 == full_length_ratio(queries, 1000, 38)
    assert 0.5 == full_length_ratio(queries, 1000, 39)


def test_answers_that_take_longer_than_the_run_leave_its_middle_third() -> None:
    """Of 90 queries the 30 in the middle stand for all that the full run has more."""
    ratios = [0.5] * 90
    ratios[45] = 2.0
    queries = served(ratios, latency_s=1000.0)
    # Issued from 0 to 89 s: the middle is from 29.67 to 59.33 s, 30 queries for 300 - 60, each for 8.
    assert 2.0 == full_length_ratio(queries, 300, 7)
    assert 0.5 == full_length_ratio(queries, 300, 8)
