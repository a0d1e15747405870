"""What a short run says about a run of full length at the same rate.

LoadGen decides a Server run by the number of queries over a limit, and allows a share that grows with the
number of queries (sut/early_stopping.py). A short run is therefore not judged by LoadGen's allowance at its
own length but by that of the full one: its queries stand for those of the full run.

A run begins with an idle system and ends with one that empties. Both parts are as long in a full run as in a
short one, so only the queries between them stand for more than themselves.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]
Ratios = NDArray[np.float64]

# Share of the queries that are issued and finished within the time that the system takes to fill.
FILL_FRACTION = 0.9
# The middle part is at least this share of a run.
MIN_MIDDLE = 1 / 3


class ServedQueries(NamedTuple):
    """The queries of a run, in order of issue."""

    issued_s: Seconds
    """(N,) ascending."""
    latency_s: Seconds
    ttft_ratio: Ratios
    """(N,) TTFT over its limit."""
    tpot_ratio: Ratios
    """(N,) TPOT over its limit; 0 for an answer of one token."""


def full_length_ratio(served: ServedQueries, num_full: int, num_allowed: int) -> float:
    """Return the latency over its limit that decides whether the run of full length is VALID.

    That is the latency which as many queries of the full run exceed as LoadGen allows: at most 1 if the full
    run is VALID. The larger of TTFT and TPOT.

    Args:
        served: The queries of the short run; those of a run of full length stand for themselves.
        num_full: Queries of the run of full length.
        num_allowed: Queries of it that may be over a limit; below 0: LoadGen calls no run of so few queries
            VALID, and the ratio is infinite.
    """
    if num_allowed < 0:
        return math.inf
    weights = _weights(served, num_full)
    return max(
        _exceeded_by(ratios, weights, num_allowed) for ratios in (served.ttft_ratio, served.tpot_ratio)
    )


def _weights(served: ServedQueries, num_full: int) -> NDArray[np.float64]:
    """Return how many queries of the full run each query stands for, (N,)."""
    num = len(served.issued_s)
    weights = np.ones(num)
    if num >= num_full:
        return weights
    begin_s, end_s = served.issued_s[0], served.issued_s[-1]
    edge_s = float(np.quantile(served.latency_s, FILL_FRACTION))
    edge_s = min(edge_s, (end_s - begin_s) * (1 - MIN_MIDDLE) / 2)
    middle = (served.issued_s >= begin_s + edge_s) & (served.issued_s <= end_s - edge_s)
    num_middle = int(np.count_nonzero(middle))
    if num_middle:
        weights[middle] = (num_full - num + num_middle) / num_middle
    return weights


def _exceeded_by(ratios: Ratios, weights: NDArray[np.float64], num_allowed: int) -> float:
    """Return the smallest ratio that queries of at most this weight exceed."""
    order = np.argsort(-ratios, kind="stable")
    above = np.cumsum(weights[order])
    # The first whose weight, added to that of all above it, is more than what may exceed the limit.
    index = int(np.searchsorted(above, num_allowed, side="right"))
    return float(ratios[order][min(index, len(order) - 1)])
