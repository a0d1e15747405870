"""Chooses Offline's target_qps, which gives LoadGen's sample count, so that a run lasts long enough.

LoadGen issues 1.1 times the samples that target_qps takes for the minimum duration, at once, and calls the
run VALID if it lasted that long. Any rate from that of the engines on is VALID; the lowest makes the shortest
run.
"""

import math
from collections.abc import Sequence

from sut.loadgen import OFFLINE_SLACK
from tokenfleet.find_qps.rate_search import SearchStep, StepKind
from tokenfleet.find_qps.search_results import OfflinePoint

# Growth of the rate after a run that was too short although its rate was that of the engines.
MIN_GROWTH = 1.05
# Answers that all run at once end together: their rate is at most this multiple of the mean.
MAX_STEADY = 2.0


def next_offline_step(
    points: Sequence[OfflinePoint], first_qps: float, min_duration_s: float, max_runs: int
) -> SearchStep:
    """Return what follows the runs so far.

    Args:
        points: Runs so far, in order.
        first_qps: Rate of the first run; LoadGen's smallest sample count may give more.
        min_duration_s: LoadGen's min_duration.
        max_runs: Largest number of runs.
    """
    if not points:
        return SearchStep(StepKind.FULL, first_qps)
    last = points[-1]
    if last.is_valid:
        return SearchStep(StepKind.FOUND, last.target_qps)
    if len(points) >= max_runs:
        return SearchStep(StepKind.EXHAUSTED, last.target_qps)
    # LoadGen rounds up to whole multiples of the data set: at least one more of them.
    one_more = (last.num_samples + 1) / (OFFLINE_SLACK * min_duration_s)
    steady = min(last.samples_per_s, MAX_STEADY * last.num_samples / max(last.duration_s, 1e-9))
    rate = max(steady, MIN_GROWTH * last.target_qps, one_more)
    return SearchStep(StepKind.FULL, math.ceil(rate * 1000) / 1000)
