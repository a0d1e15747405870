"""Maps times of a worker's clock to the coordinator's, with a bound on the error, from a stream's pings.

A ping that was sent at s, answered at w (by the worker's clock) and received at r shows that the clock of the
worker minus that of the coordinator was between w - r and w - s. Between pings the difference changes: by a
rate that is estimated from all pings of the stream, and by what the estimate leaves open. Each ping therefore
bounds the difference at any other moment, less tightly the longer ago it was. The tightest bounds from both
sides hold: their middle is taken, and half their distance is the bound on the error.

Two processes on one machine may share a monotonic clock. This is not assumed: time namespaces and virtual
machines shift it, and the pings of such workers are short anyway.
"""

import numpy as np
from numpy.typing import NDArray

UNKNOWN_NS = int(np.iinfo(np.int64).min)
"""Stands for a time that is not known."""
MAX_DRIFT = 500e-6
"""Source: Linux slews a clock by at most 500 ppm (adjtimex(2)); taken if the pings tell nothing better."""
MIN_DRIFT = 1e-6
"""Assumed change of the rate between two clocks over a run."""
MAX_ANCHORS = 32
"""The rate is estimated from the shortest pings of this many equal parts of the run."""
_MAX_DISTANCE_NS = 1 << 62

Times = NDArray[np.int64]
Floats = NDArray[np.float64]


class ClockOffsets:
    """Difference between the clocks of one worker and of the coordinator over one stream."""

    def __init__(self, pings: Times) -> None:
        """Take the pings.

        Args:
            pings: (P, 3) sent (ours), answered (worker's), received (ours), in the order of answers.
        """
        self._known = len(pings) > 0
        if not self._known:
            return
        sent_ns, worker_ns, received_ns = pings.T
        # Floats hold the distances from the first ping exactly; they do not hold the times.
        self._first_worker_ns, self._first_ns = int(worker_ns[0]), int(sent_ns[0])
        at_ns = (worker_ns - worker_ns[0]).astype(np.float64)
        # Clocks are read in whole ns.
        lows = at_ns - (received_ns - self._first_ns) - 1
        highs = at_ns - (sent_ns - self._first_ns) + 1
        self._rate, self.drift = _rate(at_ns, lows, highs)
        """Change of the difference per ns: the estimate, and what it leaves open."""
        self._at_ns = at_ns
        lows, highs, wear = lows - self._rate * at_ns, highs - self._rate * at_ns, self.drift * at_ns
        self._lows_before = np.maximum.accumulate(lows + wear)
        self._lows_after = np.maximum.accumulate((lows - wear)[::-1])[::-1]
        self._highs_before = np.minimum.accumulate(highs - wear)
        self._highs_after = np.minimum.accumulate((highs + wear)[::-1])[::-1]

    def to_ours(self, worker_ns: Times) -> tuple[Times, Times]:
        """Map times to the coordinator's clock.

        Args:
            worker_ns: (N,) by the worker's clock, from 0 to 2**63 - 1; 0: unknown.

        Returns:
            (N,) times and (N,) bounds on their error; both UNKNOWN_NS where the time is unknown, or without
            any ping.
        """
        unknown = np.full(len(worker_ns), UNKNOWN_NS)
        if not self._known:
            return unknown, unknown
        distance_ns = np.clip(worker_ns - self._first_worker_ns, -_MAX_DISTANCE_NS, _MAX_DISTANCE_NS)
        offsets, errors = self._offsets(distance_ns.astype(np.float64))
        told = worker_ns > 0
        ours = self._first_ns + distance_ns - np.rint(offsets).astype(np.int64)
        return np.where(told, ours, unknown), np.where(told, np.ceil(errors).astype(np.int64), unknown)

    def _offsets(self, at_ns: Floats) -> tuple[Floats, Floats]:
        """Return the differences at times since the first ping, and the bounds on their errors; (N,) each."""
        after = np.searchsorted(self._at_ns, at_ns)
        before = np.maximum(after - 1, 0)
        after = np.minimum(after, len(self._at_ns) - 1)
        # Outside the pings both neighbours are the same ping, and one of the bounds grows the wrong way.
        wear = self.drift * at_ns
        lows_before, highs_before = self._lows_before[before] - wear, self._highs_before[before] + wear
        lows_after, highs_after = self._lows_after[after] + wear, self._highs_after[after] - wear
        is_early, is_late = at_ns < self._at_ns[before], at_ns > self._at_ns[after]
        lows = np.maximum(np.where(is_early, -np.inf, lows_before), np.where(is_late, -np.inf, lows_after))
        highs = np.minimum(np.where(is_early, np.inf, highs_before), np.where(is_late, np.inf, highs_after))
        return (lows + highs) / 2 + self._rate * at_ns, np.abs(highs - lows) / 2


def _rate(at_ns: Floats, lows: Floats, highs: Floats) -> tuple[float, float]:
    """Estimate the rate of change from the bounds of P pings; returns it and what it leaves open."""
    anchors = _shortest(at_ns, highs - lows)
    at_ns, lows, highs = at_ns[anchors], lows[anchors], highs[anchors]
    first, second = np.triu_indices(len(at_ns), 1)
    gaps = at_ns[second] - at_ns[first]
    first, second, gaps = first[gaps > 0], second[gaps > 0], gaps[gaps > 0]
    if not len(gaps):
        return 0.0, MAX_DRIFT
    least = float(((lows[second] - highs[first]) / gaps).max())
    most = float(((highs[second] - lows[first]) / gaps).min())
    least, most = (float(np.clip(end, -MAX_DRIFT, MAX_DRIFT)) for end in (least, most))
    return (least + most) / 2, max(abs(most - least) / 2, MIN_DRIFT)


def _shortest(at_ns: Floats, round_trips: Floats) -> NDArray[np.int64]:
    """Return the index of the shortest ping of each of MAX_ANCHORS equal parts of the run, in order."""
    part = (at_ns * (MAX_ANCHORS / (at_ns[-1] + 1))).astype(np.int64)
    order: NDArray[np.int64] = np.lexsort((round_trips, part))
    starts = np.unique(part[order], return_index=True)[1]
    return order.take(starts)
