"""Latencies so far: buckets and percentiles that are updated with the new latencies only."""

import numpy as np

from coordinator.recording.latency_buckets import LatencyBuckets


def test_latencies_are_counted_in_their_buckets() -> None:
    """1 s and 0.5 s lie in the first of the buckets up to 1 s and 2 s, 1.5 s in the next, 9 s beyond."""
    found = LatencyBuckets((1.0, 2.0))
    found.add(np.array([0.5, 1.0]))
    found.add(np.array([1.5, 9.0]))
    found.add(np.array([]))
    assert found.buckets == (2, 1, 1, 12.0)


def test_a_percentile_is_at_most_one_percent_too_high() -> None:
    """Of 1, 2, ..., 1000 ms the p50 is 501 ms and the p99 991 ms, as LoadGen selects them."""
    found = LatencyBuckets((1.0,))
    assert found.quantile_s(0.5) is None
    for part in np.split(np.arange(1, 1001) / 1e3, 4):
        found.add(part)
    for fraction, exact_s in ((0.0, 0.001), (0.5, 0.501), (0.99, 0.991), (1.0, 1.0)):
        quantile_s = found.quantile_s(fraction)
        assert quantile_s is not None
        assert exact_s <= quantile_s <= exact_s * 1.0101


def test_a_latency_beyond_all_bins_is_the_largest_percentile() -> None:
    """An hour counts as the last edge, about 300 s."""
    found = LatencyBuckets((1.0,))
    found.add(np.array([3600.0]))
    quantile_s = found.quantile_s(0.99)
    assert quantile_s is not None
    assert 290 < quantile_s < 310
