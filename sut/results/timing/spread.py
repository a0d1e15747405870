"""The distribution of one quantity over a run, with LoadGen's percentiles."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


def percentile_rank(count: int, fraction: float) -> int:
    """Return the rank of LoadGen's percentile among values in ascending order, from 0; count is at least 1.

    Source: loadgen/results.cc, sorted[int(count * fraction)].
    """
    return min(int(count * fraction), count - 1)


def percentile(values: NDArray[np.int64], fraction: float) -> int:
    """Return LoadGen's percentile; 0 without values."""
    if not len(values):
        return 0
    index = percentile_rank(len(values), fraction)
    return int(np.partition(values, index)[index])


@dataclass(frozen=True, slots=True)
class Spread:
    """Distribution of one quantity over the run."""

    count: int
    mean: float
    minimum: int
    percentiles: dict[str, int]
    maximum: int

    @classmethod
    def of(cls, values: NDArray[np.int64]) -> "Spread":
        """Describe values, (N,); without values every figure is 0."""
        if not len(values):
            return cls(0, 0.0, 0, {}, 0)
        marks = {f"p{q:g}": percentile(values, q / 100) for q in PERCENTILES}
        return cls(len(values), float(values.mean()), int(values.min()), marks, int(values.max()))
