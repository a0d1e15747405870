"""Confidence intervals of repeated measurements."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from sut.results.comparison.ratio_interval import student_quantile

ERROR_RATE = 0.05


class Interval(NamedTuple):
    """A mean and its two-sided 95 % interval, by Student's t."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float]) -> Interval:
    """Return the interval of the mean of independent values, at least two."""
    mean = statistics.mean(values)
    half = student_quantile(ERROR_RATE, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half)
