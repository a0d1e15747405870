"""Delays of LoadGen's calls, by the schedule that is computed again from its seed."""

import numpy as np
from numpy.typing import NDArray

from sut.results.timing.loadgen_schedule import Seeded, due_times

MIN_MATCH = 0.5
"""Minimum share of queries that must be within MATCH_NS of the computed time plus a constant."""
MATCH_NS = 20_000_000


def scheduled_ns(seed: int, target_qps: float, num: int) -> NDArray[np.int64]:
    """Compute the times of the first `num` queries since the first one, (num,) in ns."""
    return due_times(Seeded(seed, target_qps), num)


def issue_delays_ns(issued_ns: NDArray[np.int64], scheduled: NDArray[np.int64]) -> NDArray[np.int64]:
    """Compute the delay of each query, (N,) in ns, relative to the query with the smallest delay.

    Args:
        issued_ns: (N,) times of LoadGen's calls, in order.
        scheduled: (N,) scheduled times, with a different origin.

    Raises:
        RuntimeError: The two do not match: LoadGen computes its schedule differently.
    """
    delays: NDArray[np.int64] = issued_ns - scheduled
    delays = delays - delays.min()
    if (delays < MATCH_NS).mean() < MIN_MATCH:
        raise RuntimeError("LoadGen's schedule differs from the one that loadgen_schedule.py computes")
    return delays
