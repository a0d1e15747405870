"""Distribution of answer lengths while a run is on, and the remaining time that follows from it."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coordinator.scheduling.request_columns import TokenCounts
from coordinator.scheduling.scheduler import Scheduler

NUM_BINS = 512
NUM_TAIL_POINTS = 32
MIN_FINISHED = 10
"""Fewer finished answers give no estimate."""
MAX_SURVIVAL = 0.5
"""No estimate before this share of all answers, those still running included, is known to be shorter than the
longest one so far: until then most of the distribution has not been seen."""
NUM_BISECTIONS = 20


class RunLoad(NamedTuple):
    """Requests and rates of a run at one moment."""

    num_unissued: int
    """Requests that LoadGen will still issue."""
    num_waiting: int
    """Requests issued and not sent to a worker."""
    num_in_flight: int
    """Requests that have a slot: at workers, or moving to another one."""
    tokens_per_s: float
    issued_per_s: float


class AnswerLengths:
    """Kaplan-Meier estimate: a running answer is one of which only a lower bound of its length is known.

    The mean of the finished answers alone is too small, because short answers finish first.
    """

    def __init__(self, finished: TokenCounts, running: TokenCounts, max_new_tokens: int) -> None:
        """Estimate the distribution; costs one pass over the lengths.

        Args:
            finished: (F,) tokens of each finished answer.
            running: (R,) tokens so far of each running answer.
            max_new_tokens: No answer is longer.
        """
        longest = int(max(finished.max(initial=0), running.max(initial=0)))
        bin_len = longest // NUM_BINS + 1
        num_bins = longest // bin_len + 1
        ended = np.bincount(finished // bin_len, minlength=num_bins)
        self._num_running = np.bincount(running // bin_len, minlength=num_bins)
        at_risk = np.cumsum((ended + self._num_running)[::-1])[::-1]
        survival = np.cumprod(1 - ended / np.maximum(at_risk, 1))
        self._ages = np.arange(num_bins) * bin_len
        self.is_known = len(finished) >= MIN_FINISHED and bool(survival[-1] <= MAX_SURVIVAL)
        """Whether enough of the distribution has been seen for an estimate."""
        total = int(finished.sum() + running.sum())
        self._lens, self._survival = _with_tail(
            np.append(self._ages, num_bins * bin_len),
            np.append(1.0, survival),
            total / max(len(finished), 1),
            max_new_tokens,
        )
        areas = np.diff(self._lens) * (self._survival[1:] + self._survival[:-1]) / 2
        self._rest = np.append(np.cumsum(areas[::-1])[::-1], 0.0)

    @property
    def mean(self) -> float:
        """Mean length of all answers, in tokens."""
        return float(self._rest[0])

    def remaining_s(self, load: RunLoad) -> float | None:
        """Estimate the time until all answers are complete; None if it is not known yet.

        The last waiting request starts when the fleet has produced the tokens before it, or when LoadGen
        issues it. Then the longest answer decides, at the speed of one request. At low rates no request may
        run at this moment: the next one is then at least as fast as the mean rate.
        """
        if not self.is_known or load.tokens_per_s <= 0:
            return None
        num_new = load.num_unissued + load.num_waiting
        if load.num_unissued and load.issued_per_s <= 0:
            return None
        start_s = max(
            num_new * self.mean / load.tokens_per_s,
            load.num_unissued / load.issued_per_s if load.num_unissued else 0.0,
        )
        num_at_once = max(load.num_in_flight, 1)
        request_tokens_per_s = load.tokens_per_s / num_at_once
        running_s = self._longest_rest(self._num_running) / request_tokens_per_s
        if not num_new:
            return running_s
        fresh = np.zeros_like(self._num_running)
        fresh[0] = min(num_new, num_at_once)
        return max(running_s, start_s + self._longest_rest(fresh) / request_tokens_per_s)

    def _longest_rest(self, num_at_age: NDArray[np.int64]) -> float:
        """Return the median of the largest number of tokens that any of the answers still needs.

        Args:
            num_at_age: (bins,) number of answers by their tokens so far.
        """
        ages, nums = self._ages[num_at_age > 0], num_at_age[num_at_age > 0]
        alive = np.maximum(np.interp(ages, self._lens, self._survival), 1e-12)
        low, high = 0.0, float(self._lens[-1])
        for _ in range(NUM_BISECTIONS):
            middle = (low + high) / 2
            longer = np.interp(ages + middle, self._lens, self._survival, right=0.0) / alive
            all_ended = float((nums * np.log1p(-np.minimum(longer, 1 - 1e-12))).sum())
            low, high = (low, middle) if all_ended >= math.log(0.5) else (middle, high)
        return high


def estimate_remaining_s(
    scheduler: Scheduler, num_expected: int | None, tokens_per_s: float, elapsed_s: float
) -> float | None:
    """Estimate the time until a run's last answer is complete; None if it is not known yet.

    Args:
        scheduler: The run's.
        num_expected: Requests of the whole run; None: not known.
        tokens_per_s: The fleet's rate.
        elapsed_s: Time since the test began.

    Thread: any.
    """
    table = scheduler.table
    if num_expected is None:
        return None
    if table.num_done >= num_expected:
        return 0.0
    running, done = table.rows(table.held()[0]), table.done
    load = RunLoad(
        num_unissued=max(num_expected - scheduler.num_issued, 0),
        num_waiting=scheduler.num_waiting,
        num_in_flight=table.num_in_flight,
        tokens_per_s=tokens_per_s,
        issued_per_s=scheduler.num_issued / max(elapsed_s, 1e-9),
    )
    lengths = AnswerLengths(done["num_tokens"], running["num_tokens"], table.max_new_tokens)
    return lengths.remaining_s(load)


def _with_tail(
    lens: NDArray[np.int64], survival: NDArray[np.float64], mean_rest: float, max_new_tokens: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Continue a survival curve beyond the longest answer: exponentially, down to 0 at the budget."""
    end = float(lens[-1])
    if survival[-1] <= 0 or end >= max_new_tokens:
        return np.append(lens, end).astype(np.float64), np.append(survival, 0.0)
    rest = np.linspace(0.0, max_new_tokens - end, NUM_TAIL_POINTS + 1)[1:]
    tail = survival[-1] * np.exp(-rest / max(mean_rest, 1.0))
    return np.concatenate([lens, end + rest, [max_new_tokens]]), np.concatenate([survival, tail, [0.0]])
