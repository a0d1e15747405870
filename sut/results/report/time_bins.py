"""Bins of time, and series over them: rates, unfinished requests, percentiles, gauges of the workers."""

from typing import NamedTuple

import numpy as np

from sut.results.report.run_columns import Floats, Ints, RunColumns
from sut.results.timing.spread import percentile

MAX_BINS = 240
COORDINATOR = -1
"""The coordinator's number in the column `worker`."""


class TimeBins(NamedTuple):
    """Equal bins from the first query to the end of the run."""

    width_ns: int
    num: int

    @classmethod
    def over(cls, end_ns: int, least_ns: float = 0) -> "TimeBins":
        """Divide the run into at most MAX_BINS bins.

        Args:
            end_ns: End of the run since its first query.
            least_ns: Smallest width: narrower bins would have too few readings.
        """
        num = min(MAX_BINS, int(end_ns / max(least_ns, 1)))
        return cls(-(-max(end_ns, 1) // max(num, 1)), max(num, 1))

    @property
    def edges_ns(self) -> Ints:
        """(num + 1,)."""
        return np.arange(self.num + 1, dtype=np.int64) * self.width_ns

    @property
    def middles_s(self) -> Floats:
        """(num,)."""
        return (np.arange(self.num, dtype=np.float64) + 0.5) * (self.width_ns / 1e9)

    def bin_of(self, times_ns: Ints) -> Ints:
        """Return the bin of each time, (N,); times outside get the nearest bin."""
        return np.clip(times_ns // self.width_ns, 0, self.num - 1)

    def per_second(self, times_ns: Ints) -> Floats:
        """Count events per second, (num,)."""
        counts = np.bincount(self.bin_of(times_ns), minlength=self.num)
        return counts / (self.width_ns / 1e9)

    def percentiles(self, times_ns: Ints, values: Ints, fraction: float) -> Floats:
        """Return LoadGen's percentile of the values of each bin, (num,); NaN in an empty bin."""
        order = np.argsort(self.bin_of(times_ns), kind="stable")
        ends = np.cumsum(np.bincount(self.bin_of(times_ns), minlength=self.num))
        parts = np.split(values[order], ends[:-1])
        return np.array([percentile(part, fraction) if len(part) else np.nan for part in parts])


def num_unfinished(bins: TimeBins, began_ns: Ints, ended_ns: Ints) -> Ints:
    """Count the requests that have begun and not ended at the end of each bin, (num,)."""
    ends = bins.edges_ns[1:]
    began = np.searchsorted(np.sort(began_ns), ends, side="right")
    return began - np.searchsorted(np.sort(ended_ns), ends, side="right")


def token_rate(bins: TimeBins, requests: RunColumns) -> Floats:
    """Return tokens/s of each bin, (num,), as if each answer had come evenly from first token to end."""
    rows = requests.known("first_arrival_ns", "done_arrival_ns", "answer_tokens")
    first, done = requests.ints["first_arrival_ns"][rows], requests.ints["done_arrival_ns"][rows]
    slopes = requests.ints["answer_tokens"][rows] / np.maximum(done - first, 1)
    times = np.concatenate([first, np.maximum(done, first + 1)])
    order = np.argsort(times, kind="stable")
    times, rates = times[order], np.cumsum(np.concatenate([slopes, -slopes])[order])
    totals = np.concatenate([[0.0], np.cumsum(rates[:-1] * np.diff(times))])
    at_edges = np.interp(bins.edges_ns, times, totals) if len(times) else np.zeros(bins.num + 1)
    return np.diff(at_edges) / (bins.width_ns / 1e9)


def counter_rate(bins: TimeBins, times_ns: Ints, totals: Ints) -> Floats:
    """Return the rate of a growing counter in each bin, (num,), from its readings in order of time."""
    at_edges = np.interp(bins.edges_ns, times_ns, totals)
    return np.diff(at_edges) / (bins.width_ns / 1e9)


class Band(NamedTuple):
    """A gauge over the workers in each bin, (num,); NaN where no worker told."""

    mean: Floats
    low: Floats
    high: Floats
    total: Floats


def gauge(bins: TimeBins, times_ns: Ints, workers: Ints, values: Floats) -> Band:
    """Average each worker's readings in a bin, then describe the workers of the bin.

    Args:
        bins: Bins of time.
        times_ns: (N,) times of the readings.
        workers: (N,) the worker of each.
        values: (N,) readings; NaN where a worker did not tell.
    """
    known = np.isfinite(values) & (times_ns >= 0)
    names, rows = np.unique(workers[known], return_inverse=True)
    cells = bins.bin_of(times_ns[known]) * max(len(names), 1) + rows
    size = bins.num * max(len(names), 1)
    counts = np.bincount(cells, minlength=size)
    sums = np.bincount(cells, values[known], minlength=size)
    with np.errstate(invalid="ignore"):
        means = (sums / counts).reshape(bins.num, -1)
    return _band(means)


def _band(means: Floats) -> Band:
    """Describe the columns of (num, workers) per row."""
    told = np.isfinite(means)
    any_told = told.any(axis=1)
    nan = np.full(len(means), np.nan)
    total = np.where(any_told, np.where(told, means, 0).sum(axis=1), nan)
    count = np.maximum(told.sum(axis=1), 1)
    low = np.where(any_told, np.where(told, means, np.inf).min(axis=1), nan)
    high = np.where(any_told, np.where(told, means, -np.inf).max(axis=1), nan)
    return Band(total / count, low, high, total)
