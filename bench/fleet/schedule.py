"""Times at which LoadGen scheduled the Server queries, recomputed from its seed.

LoadGen does not log the schedule, but its latencies count from it. LoadGen 6.0.17 draws the time between two
queries from std::exponential_distribution over std::mt19937 (loadgen/utils.h, ScheduleDistribution).
libstdc++ computes it as -log(1 - u) / target_qps, where u has 53 bits from two draws, low word first
(bits/random.tcc, generate_canonical).
"""

import numpy as np
from numpy.typing import NDArray

MIN_MATCH = 0.5
"""Minimum share of queries that must be within MATCH_NS of the computed time plus a constant."""
MATCH_NS = 20_000_000


def scheduled_ns(seed: int, target_qps: float, num: int) -> NDArray[np.int64]:
    """Compute the times of the first `num` queries since the first one, (num,) in ns."""
    # std::mt19937 takes the seed modulo 2**32.
    raw = np.random.RandomState(seed % 2**32)
    words = raw.randint(0, 2**32, 2 * num, np.uint32).astype(np.float64)
    uniform = np.minimum((words[0::2] + words[1::2] * 2.0**32) / 2.0**64, np.nextafter(1.0, 0.0))
    gaps_ns = (-np.log(1.0 - uniform) / target_qps * 1e9).astype(np.int64)
    due_ns: NDArray[np.int64] = np.cumsum(gaps_ns) - gaps_ns
    return due_ns


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
        raise RuntimeError("LoadGen's schedule differs from the one that bench/fleet/schedule.py computes")
    return delays
