"""Latencies of a run in the buckets of a metric, updated at the cost of the new ones only."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coordinator.recording.latency_histogram import LatencyHistogram


class LatencyBuckets:
    """Counts of latencies in the buckets of a metric, and their percentiles so far."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        """Start empty.

        Args:
            bounds_s: Upper bounds of the buckets.
        """
        self._bounds_ns = (np.array(bounds_s) * 1e9).astype(np.int64)
        self._counts = np.zeros(len(bounds_s) + 1, np.int64)
        self._sum_ns = 0
        self._histogram = LatencyHistogram(None)

    def add(self, latencies_ns: NDArray[np.int64]) -> None:
        """Count latencies, (R,)."""
        buckets = np.searchsorted(self._bounds_ns, latencies_ns)
        self._counts += np.bincount(buckets, minlength=len(self._counts))
        self._sum_ns += int(latencies_ns.sum())
        self._histogram.add(latencies_ns)

    @property
    def buckets(self) -> tuple[float, ...]:
        """Number of latencies in each bucket, the last without an upper bound, and the sum in seconds."""
        return (*self._counts.tolist(), self._sum_ns / 1e9)

    def quantiles_s(self, fractions: Sequence[float]) -> list[float]:
        """Return LoadGen's percentiles, each at most 0.5 % too high; empty without latencies."""
        if not self._histogram.count:
            return []
        return [found / 1e9 for found in self._histogram.percentiles_ns(fractions)]
