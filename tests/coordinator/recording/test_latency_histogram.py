"""Percentiles of a histogram against those of the sorted values."""

import numpy as np
import pytest

from coordinator.recording.latency_histogram import RELATIVE_WIDTH, LatencyHistogram
from sut.results.timing.spread import percentile

MS = 1_000_000


def test_percentiles_are_within_half_a_percent_and_counts_exact() -> None:
    """100,000 latencies in 100 parts, of which exactly 1,234 are above the limit."""
    rng = np.random.default_rng(7)
    values_ns = np.concatenate([rng.lognormal(4, 1, 98_766) * 1e3, np.full(1_234, 9e12)]).astype(np.int64)
    rng.shuffle(values_ns)
    histogram = LatencyHistogram(limit_ns=int(8e12))
    for part in np.array_split(values_ns, 100):
        histogram.add(part)
    assert (100_000, 1_234) == (histogram.count, histogram.num_over)
    for fraction in (0.5, 0.9, 0.99, 0.999):
        true_ns = percentile(values_ns, fraction)
        assert true_ns <= histogram.percentiles_ns((fraction,))[0] + 1 <= true_ns * (1 + RELATIVE_WIDTH) + 2


def test_a_latency_at_the_limit_is_within_it() -> None:
    """LoadGen counts latencies above the limit."""
    histogram = LatencyHistogram(limit_ns=80 * MS)
    histogram.add(np.array([80 * MS, 80 * MS + 1]))
    assert 1 == histogram.num_over


def test_more_latencies_leave_the_first_histogram_unchanged() -> None:
    """What requests in flight add is counted once."""
    histogram = LatencyHistogram(limit_ns=1)
    histogram.add(np.array([5 * MS]))
    more = histogram.with_more(np.array([7 * MS, 7 * MS]))
    assert (1, 1, 3, 3) == (histogram.count, histogram.num_over, more.count, more.num_over)
    assert histogram.percentiles_ns((0.99,))[0] < 6 * MS < more.percentiles_ns((0.99,))[0]


@pytest.mark.parametrize("value_ns", [-5, 0, 10**18])
def test_impossible_latencies_are_counted_at_the_ends(value_ns: int) -> None:
    """A clock that went back, or a year: one latency all the same."""
    histogram = LatencyHistogram(None)
    histogram.add(np.array([value_ns]))
    assert 1 == histogram.count
    assert 0 < histogram.percentiles_ns((0.5,))[0] <= 1.01e14


def test_without_latencies_the_percentile_is_0() -> None:
    """Nothing is added by an empty array."""
    histogram = LatencyHistogram(1)
    histogram.add(np.zeros(0, np.int64))
    assert (0, 0) == (histogram.count, histogram.percentiles_ns((0.99,))[0])
