"""A search for the highest rate in virtual time: LoadGen's schedule and a simulated engine."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.find_qps.virtual_server import EngineLimits, Floats, Latencies, Lens, serve
from sut.run_length import RunLength
from tokenfleet.find_qps.full_length import ServedQueries, full_length_ratio
from tokenfleet.find_qps.rate_search import RatePoint, RateSearch, RunLengthKind, SearchStep, StepKind
from tokenfleet.find_qps.search_plan import OVER_SHARE
from tokenfleet.find_qps.search_results import MIN_LOST_RATIO
from worker.engines.scripted.cost_model import CostModel


class VirtualLoad(NamedTuple):
    """A data set, the engine that serves it, and the limits of its latencies."""

    prompt_lens: Lens
    answer_lens: Lens
    costs: CostModel
    ttft_limit_s: float
    tpot_limit_s: float

    def over(self, latencies: Latencies) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which queries are over the limits of TTFT and TPOT."""
        return latencies.ttft_s > self.ttft_limit_s, latencies.tpot_s > self.tpot_limit_s


class FoundRate(NamedTuple):
    """How a search ended."""

    end: SearchStep
    points: list[RatePoint]


class VirtualTests:
    """LoadGen tests of one search: one schedule, stretched by the rate, as LoadGen's seed gives."""

    def __init__(self, load: VirtualLoad, full: RunLength, short: RunLength, seed: int) -> None:
        """Draw the schedule.

        Args:
            load: What is served.
            full: Length of a confirming run.
            short: Length of a short run.
            seed: Of schedule and samples.
        """
        self._load = load
        self._full = full
        self._short = short
        self._seed = seed

    def search(self, search: RateSearch) -> FoundRate:
        """Search until it ends."""
        points: list[RatePoint] = []
        while (step := search.next_step(points)).kind in (StepKind.SHORT, StepKind.FULL):
            points.append(self.run(step.target_qps, RunLengthKind(step.kind)))
        return FoundRate(step, points)

    def run(self, target_qps: float, kind: RunLengthKind) -> RatePoint:
        """Serve one test, to its end or until it is lost for certain."""
        length = self._full if kind is RunLengthKind.FULL else self._short
        num_full, num_allowed = self._full.num_queries(target_qps), self._full.allowed(target_qps)
        issued_s, samples = self._draw(length, target_qps)
        prompts, answers = self._load.prompt_lens[samples], self._load.answer_lens[samples]
        latencies = serve(issued_s, prompts, answers, self._load.costs, EngineLimits())
        bound = max(num_allowed, int(len(issued_s) * OVER_SHARE))
        is_lost = max(int(over.sum()) for over in self._load.over(latencies)) > bound
        if is_lost:
            ratio = self._ratio_when_lost(issued_s, latencies, bound, num_allowed / num_full)
        else:
            served = ServedQueries(
                issued_s,
                latencies.latency_s,
                latencies.ttft_s / self._load.ttft_limit_s,
                latencies.tpot_s / self._load.tpot_limit_s,
            )
            ratio = full_length_ratio(served, num_full, num_allowed)
        return RatePoint(target_qps, kind, math.log(ratio), is_lost)

    def _draw(self, length: RunLength, target_qps: float) -> tuple[Floats, Lens]:
        num, num_rows = length.num_queries(target_qps), len(self._load.answer_lens)
        rng = np.random.default_rng(self._seed)
        gaps_s = rng.exponential(1.0, num)
        picks = np.random.default_rng(self._seed + 1_000_000)
        if length.block == 1:
            samples = picks.integers(0, num_rows, num)
        else:
            samples = np.concatenate([picks.permutation(num_rows) for _ in range(num // length.block)])
        return (np.cumsum(gaps_s) - gaps_s[0]) / target_qps, samples

    def _ratio_when_lost(
        self, issued_s: Floats, latencies: Latencies, num_allowed: int, share: float
    ) -> float:
        """Return the ratio that `share` of the finished queries exceeded when the run was ended."""
        known_s = (issued_s + latencies.ttft_s, issued_s + latencies.latency_s)
        ends = [
            np.sort(times[over])[num_allowed]
            for times, over in zip(known_s, self._load.over(latencies), strict=True)
            if over.sum() > num_allowed
        ]
        done = known_s[1] <= min(ends)
        limits = (self._load.ttft_limit_s, self._load.tpot_limit_s)
        found = [
            float(np.quantile(values[done], 1 - share)) / limit
            for values, limit in zip(latencies[:2], limits, strict=True)
        ]
        return max(*found, MIN_LOST_RATIO)


def bisect_rate(is_valid: Callable[[float], bool], low: float, high: float) -> float:
    """Find the highest valid rate between two rates, within 0.1 %."""
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if is_valid(middle) else (low, middle)
    return low
