"""Percentiles of latencies while a run is on, at a cost that does not grow with the run."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sut.results.timing.spread import percentile_rank

SMALLEST_NS = 1_000.0
LARGEST_NS = 1e14
RELATIVE_WIDTH = 0.005
"""A percentile is at most this share above the true one."""
_LOG_WIDTH = math.log1p(RELATIVE_WIDTH)
NUM_BINS = math.ceil(math.log(LARGEST_NS / SMALLEST_NS) / _LOG_WIDTH) + 1


class LatencyHistogram:
    """Counts of latencies in bins of equal relative width.

    num_over, the number of latencies above the limit, is exact.
    """

    def __init__(self, limit_ns: int | None, first: "LatencyHistogram | None" = None) -> None:
        """Start with the latencies of another histogram, or empty.

        Args:
            limit_ns: LoadGen's limit; None: there is none.
            first: Histogram with the same limit.
        """
        self.limit_ns = limit_ns
        self._counts: NDArray[np.int64] = np.zeros(NUM_BINS, np.int64)
        self.count = self.num_over = 0
        if first is not None:
            self._counts += first._counts
            self.count, self.num_over = first.count, first.num_over

    def add(self, values_ns: NDArray[np.int64]) -> None:
        """Add latencies, (N,)."""
        self.count += len(values_ns)
        if self.limit_ns is not None:
            self.num_over += int((values_ns > self.limit_ns).sum())
        bounded = np.clip(values_ns, SMALLEST_NS, LARGEST_NS)
        bins = np.ceil(np.log(bounded / SMALLEST_NS) / _LOG_WIDTH).astype(np.int64)
        self._counts += np.bincount(bins, minlength=NUM_BINS)

    def with_more(self, values_ns: NDArray[np.int64]) -> "LatencyHistogram":
        """Return a histogram with further latencies, (N,); this one is unchanged."""
        found = LatencyHistogram(self.limit_ns, self)
        found.add(values_ns)
        return found

    def percentiles_ns(self, fractions: Sequence[float]) -> list[int]:
        """Return the upper bound of the bin of each of LoadGen's percentiles, sorted[int(count * fraction)].

        0 without latencies.
        """
        if not self.count:
            return [0] * len(fractions)
        ranks = [percentile_rank(self.count, fraction) for fraction in fractions]
        rows = np.searchsorted(self._counts.cumsum(), ranks, side="right").tolist()
        return [round(SMALLEST_NS * math.exp(row * _LOG_WIDTH)) for row in rows]
