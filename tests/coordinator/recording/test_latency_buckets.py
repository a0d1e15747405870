"""Latencies of a run in the buckets of a metric."""

import numpy as np

from coordinator.recording.latency_buckets import LatencyBuckets


def test_latencies_are_counted_in_their_buckets() -> None:
    """Of buckets up to 1 s and 2 s, 0.5 s and 1 s lie in the first, 1.5 s in the second, 9 s in neither."""
    found = LatencyBuckets((1.0, 2.0))
    found.add(np.array([500_000_000, 1_000_000_000]))
    found.add(np.array([1_500_000_000, 9_000_000_000]))
    found.add(np.array([], np.int64))
    assert found.buckets == (2, 1, 1, 12.0)


def test_percentiles_are_those_of_all_latencies_so_far() -> None:
    """Of 1, 2, ..., 1000 ms the p50 is 501 ms and the p99 991 ms, as LoadGen selects them, to 0.5 %."""
    found = LatencyBuckets((1.0,))
    assert [] == found.quantiles_s((0.5,))
    for part in np.split(np.arange(1, 1001) * 1_000_000, 4):
        found.add(part)
    for fraction, exact_s in ((0.5, 0.501), (0.99, 0.991)):
        (quantile_s,) = found.quantiles_s((fraction,))
        assert exact_s <= quantile_s <= exact_s * 1.0051
