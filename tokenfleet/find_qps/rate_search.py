"""Chooses the rate of the next run from the runs so far: pure, so that a search continues after a restart.

A run gives the ratio of the deciding latency to its limit. Between the highest rate below the limit and the
lowest above it, the logarithm of the ratio is taken as linear in the logarithm of the rate. Short runs narrow
that bracket; runs of full length confirm, and correct the line by their own ratio.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

# A bracket this narrow is left to the runs of full length: chance moves a short run's ratio by as much.
NARROW = math.log(1.10)
# The next short run keeps away from the ends of its bracket, so that each one shrinks it.
MIN_STEP = 0.15
# Ratios far from the limit say little about the slope near it: an overloaded engine queues without bound.
MAX_LOG_RATIO = 0.7
# Runs kept for confirmation.
NUM_FULL = 5
# A confirming run is this far below the estimated limit.
MARGIN = math.log(1.004)
# A VALID run this close to the estimated limit, or to a run that was not VALID, is the result.
CLOSE = math.log(1.006)
# The first step down from a run that was not VALID is at least this large; each further one twice as large.
STEP_DOWN = math.log(1.01)
# First and last factor by which the rate grows while nothing is over the limit.
MIN_GROWTH, MAX_GROWTH = 1.1, 2.0
MIN_SLOPE, MAX_SLOPE = 1.0, 30.0


class RunLengthKind(StrEnum):
    """Whether a run has the length of a submission."""

    SHORT = "short"
    FULL = "full"


class RatePoint(NamedTuple):
    """One finished run of the search."""

    target_qps: float
    kind: RunLengthKind
    log_ratio: float
    """Logarithm of the deciding latency over its limit; above 0: a run of full length is not VALID."""
    is_lost: bool = False
    """Whether the run was ended because it was lost: its ratio is that of its first part."""

    @property
    def log_qps(self) -> float:
        """Logarithm of the rate."""
        return math.log(self.target_qps)

    @property
    def is_valid(self) -> bool:
        """Whether a run of full length is VALID, or would be."""
        return self.log_ratio <= 0


class StepKind(StrEnum):
    """What a search does next."""

    SHORT = "short"
    FULL = "full"
    FOUND = "found"
    TOO_HIGH = "too high"
    """The lower bound is not VALID."""
    EXHAUSTED = "exhausted"
    """No run of full length was VALID."""


class SearchStep(NamedTuple):
    """The next run, or the end of the search."""

    kind: StepKind
    target_qps: float
    """Of the next run, of the highest VALID one, or the lower bound."""


class RateSearch(NamedTuple):
    """Bounds of a search."""

    min_qps: float
    max_qps: float | None
    """None: as high as it goes."""
    max_runs: int

    def next_step(self, points: Sequence[RatePoint]) -> SearchStep:
        """Return what follows the runs so far."""
        if any(point.kind is RunLengthKind.FULL for point in points):
            return self._after_full(points)
        if any(not point.is_valid and point.target_qps <= self.min_qps for point in points):
            return SearchStep(StepKind.TOO_HIGH, self.min_qps)
        bracket = Bracket.of(points)
        if len(points) + NUM_FULL >= self.max_runs or self._is_narrow(bracket):
            return self._first_full(bracket)
        return SearchStep(StepKind.SHORT, self._next_short(bracket))

    def untried_qps(self, points: Sequence[RatePoint]) -> float | None:
        """Return the rate that a further run would try after one was found; None: it is at the limit."""
        step = self._replace(max_runs=len(points) + 1).next_step(points)
        return step.target_qps if step.kind is StepKind.FULL else None

    def _is_narrow(self, bracket: "Bracket") -> bool:
        if bracket.above is None:
            return bracket.below is not None and bracket.below.target_qps == self.max_qps
        return bracket.below is not None and bracket.width <= NARROW

    def _next_short(self, bracket: "Bracket") -> float:
        below, above = bracket
        if above is None:
            if below is None:
                middle = math.sqrt(self.min_qps * (self.max_qps or self.min_qps))
                return self._bounded(middle)
            growth = min(max(math.exp(-below.log_ratio), MIN_GROWTH), MAX_GROWTH)
            return self._bounded(below.target_qps * growth)
        if below is None:
            # The line from the lower bound, of which nothing is known, is as steep as can be.
            estimate = math.exp(above.log_qps - max(above.log_ratio / 2, math.log(MIN_GROWTH)))
            return self._bounded(estimate)
        step = min(max(bracket.zero_at, MIN_STEP), 1 - MIN_STEP)
        return self._bounded(math.exp(below.log_qps + step * bracket.width))

    def _first_full(self, bracket: "Bracket") -> SearchStep:
        below, above = bracket
        if below is None:
            return SearchStep(StepKind.FULL, self.min_qps)
        if above is None:
            return SearchStep(StepKind.FULL, below.target_qps)
        log_qps = below.log_qps + bracket.zero_at * bracket.width
        return SearchStep(StepKind.FULL, self._bounded(math.exp(log_qps - MARGIN)))

    def _after_full(self, points: Sequence[RatePoint]) -> SearchStep:
        full = [point for point in points if point.kind is RunLengthKind.FULL]
        bracket = Bracket.of(full)
        slope = bracket.slope if bracket.is_closed else _slope([p for p in points if p not in full], full)
        is_last = len(points) >= self.max_runs
        below, above = bracket
        if below is None:
            assert above is not None
            return self._step_down(above, slope, len(full), is_last)
        if above is None:
            rate = below.log_qps - below.log_ratio / slope - MARGIN
        else:
            rate = below.log_qps + bracket.zero_at * bracket.width - MARGIN
        better = self._bounded(math.exp(rate))
        if is_last or math.log(better) - below.log_qps < CLOSE:
            return SearchStep(StepKind.FOUND, below.target_qps)
        return SearchStep(StepKind.FULL, better)

    def _step_down(self, lowest: RatePoint, slope: float, num_failed: int, is_last: bool) -> SearchStep:
        if lowest.target_qps <= self.min_qps:
            return SearchStep(StepKind.TOO_HIGH, self.min_qps)
        if is_last:
            return SearchStep(StepKind.EXHAUSTED, lowest.target_qps)
        down = max(_clipped(lowest) / slope, STEP_DOWN * 2 ** (num_failed - 1)) + MARGIN
        return SearchStep(StepKind.FULL, self._bounded(math.exp(lowest.log_qps - down)))

    def _bounded(self, qps: float) -> float:
        """Keep a rate within the bounds, with as many digits as matter."""
        high = math.inf if self.max_qps is None else self.max_qps
        return min(max(float(f"{qps:.4g}"), self.min_qps), high)


class Bracket(NamedTuple):
    """The highest rate below the limit, and the lowest above it."""

    below: RatePoint | None
    above: RatePoint | None

    @classmethod
    def of(cls, points: Sequence[RatePoint]) -> "Bracket":
        """Find the bracket; where chance has put a VALID run above one that is not, the lower one counts."""
        above = min((point for point in points if not point.is_valid), default=None)
        low = [point for point in points if point.is_valid and (above is None or point < above)]
        return cls(max(low, default=None), above)

    @property
    def is_closed(self) -> bool:
        """Whether both ends are known."""
        return self.below is not None and self.above is not None

    @property
    def width(self) -> float:
        """Logarithm of the ratio of the two rates."""
        assert self.below is not None
        assert self.above is not None
        return self.above.log_qps - self.below.log_qps

    @property
    def slope(self) -> float:
        """Growth of the ratio's logarithm with that of the rate."""
        assert self.below is not None
        assert self.above is not None
        rise = _clipped(self.above) - _clipped(self.below)
        return min(max(rise / self.width, MIN_SLOPE), MAX_SLOPE)

    @property
    def zero_at(self) -> float:
        """Where the line through both crosses the limit, from 0 at the lower rate to 1 at the higher."""
        assert self.below is not None
        assert self.above is not None
        if self.above.is_lost:
            return 0.5
        low, high = _clipped(self.below), _clipped(self.above)
        return -low / (high - low)


def _slope(short: Sequence[RatePoint], full: Sequence[RatePoint]) -> float:
    """Estimate the slope near the limit while all runs of full length are on one side of it."""
    # The first part of a lost run does not tell the slope.
    whole = [point for point in full if not point.is_lost]
    if len(whole) > 1:
        last, other = sorted(whole, key=lambda point: abs(point.log_ratio))[:2]
        if last.target_qps != other.target_qps:
            rise = _clipped(last) - _clipped(other)
            return min(max(rise / (last.log_qps - other.log_qps), MIN_SLOPE), MAX_SLOPE)
    bracket = Bracket.of(short)
    return bracket.slope if bracket.is_closed else MIN_SLOPE


def _clipped(point: RatePoint) -> float:
    return min(max(point.log_ratio, -MAX_LOG_RATIO), MAX_LOG_RATIO)
