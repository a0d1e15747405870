"""Distribution of latencies, updated at the cost of the new ones only."""

import numpy as np
from numpy.typing import NDArray

GROWTH = 1.01
"""Ratio of a bin's upper edge to its lower one: a percentile is at most 1 % too high."""
_EDGES_S = np.geomspace(1e-4, 1e-4 * GROWTH**1499, 1500)
"""From 0.1 ms to 300 s."""


class LatencyBuckets:
    """Counts of latencies in fine bins for percentiles, and in coarse buckets for export."""

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        """Start empty.

        Args:
            bounds_s: Upper bounds of the buckets.
        """
        self._bounds_s = np.array(bounds_s)
        self._buckets = np.zeros(len(bounds_s) + 1, np.int64)
        self._bins = np.zeros(len(_EDGES_S) + 1, np.int64)
        self._sum_s = 0.0

    def add(self, latencies_s: NDArray[np.float64]) -> None:
        """Count latencies, shape (R,), in seconds."""
        self._buckets += _count(self._bounds_s, latencies_s)
        self._bins += _count(_EDGES_S, latencies_s)
        self._sum_s += float(latencies_s.sum())

    @property
    def buckets(self) -> tuple[float, ...]:
        """Number of latencies in each bucket, the last without an upper bound, and the sum in seconds."""
        return (*self._buckets.tolist(), self._sum_s)

    def quantile_s(self, fraction: float) -> float | None:
        """Return a percentile, at most 1 % too high; None without latencies."""
        totals = self._bins.cumsum()
        if not totals[-1]:
            return None
        # As LoadGen: sorted[int(count * fraction)].
        rank = min(int(totals[-1] * fraction), int(totals[-1]) - 1)
        index = int(np.searchsorted(totals, rank, side="right"))
        return float(_EDGES_S[min(index, len(_EDGES_S) - 1)])


def _count(upper_s: NDArray[np.float64], latencies_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the latencies up to each upper edge and above the one before."""
    return np.bincount(np.searchsorted(upper_s, latencies_s), minlength=len(upper_s) + 1)
