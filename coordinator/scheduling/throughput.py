"""How fast a worker is, as its frames show it: readings once a beat, averages that forget in seconds."""

import math
from typing import NamedTuple

FORGET_S = 5.0
"""What is so long ago counts 1/e: a worker that slows down shows it within a few beats."""
PREFETCH_MARGIN = 2.0
"""Requests may end so many times faster than on average while a refill is on its way."""
MIN_SPEED = 0.1
"""Slowest relative speed: a worker that stalls gets little, and dispatch never divides by nothing."""


class Reading(NamedTuple):
    """What one stream has brought until a beat."""

    at_ns: int
    """Coordinator's monotonic clock."""
    num_tokens: int
    """Tokens received since the stream was opened."""
    num_finished: int
    """Requests finished since then."""
    outstanding: int
    """Requests sent and not finished."""
    most_finished: int
    """Most requests that ended in one frame since the reading before."""
    refill_s: float
    """Longest way of an end to here since then, and of a prompt back."""


class Pace(NamedTuple):
    """A worker's measured speed; 0 is not measured yet."""

    full_tokens_per_s: float = 0.0
    """Of the whole worker, while all its slots are taken."""
    request_tokens_per_s: float = 0.0
    """Of each outstanding request."""
    finished_per_s: float = 0.0
    """Requests."""
    burst: float = 0.0
    """Most requests that ended in one frame lately."""
    refill_s: float = 0.0
    """Longest time lately from an end on the worker to the next prompt there."""


def measure(pace: Pace, before: Reading, now: Reading, max_num_seqs: int) -> Pace:
    """Bring a pace up to date, once a beat.

    A worker that had nothing to do, or has brought nothing yet, keeps its pace.

    Args:
        pace: As of `before`.
        before: Reading at the last beat, of the same stream.
        now: Later than `before`.
        max_num_seqs: The worker's slots.
    """
    elapsed_s = (now.at_ns - before.at_ns) / 1e9
    tokens_per_s = (now.num_tokens - before.num_tokens) / elapsed_s
    outstanding = (before.outstanding + now.outstanding) / 2
    if not outstanding or not (tokens_per_s or pace.request_tokens_per_s):
        return pace
    kept = math.exp(-elapsed_s / FORGET_S)
    full = min(before.outstanding, now.outstanding) >= max_num_seqs
    return Pace(
        _blend(pace.full_tokens_per_s, tokens_per_s, kept) if full else pace.full_tokens_per_s,
        _blend(pace.request_tokens_per_s, tokens_per_s / outstanding, kept),
        _blend(pace.finished_per_s, (now.num_finished - before.num_finished) / elapsed_s, kept),
        max(now.most_finished, pace.burst * kept),
        max(now.refill_s, pace.refill_s * kept),
    )


def prefetch(pace: Pace, max_num_seqs: int) -> int:
    """Compute the least number of requests beyond the slots that never starves a worker.

    What ends in one frame, and what ends while its refill is on the way; at least 1, at most an eighth of the
    slots, which is what a worker gets until it has been measured.
    """
    most = max(max_num_seqs // 8, 1)
    if not pace.burst:
        return most
    needed = pace.burst + PREFETCH_MARGIN * pace.finished_per_s * pace.refill_s
    return min(max(math.ceil(needed), 1), most)


def relative_speeds(paces: list[Pace]) -> list[float]:
    """Compare tokens/s of each outstanding request with the mean of the workers that were measured.

    Tokens/s of a whole worker would not do: one with fewer requests would look slow and get fewer still.

    Returns:
        One per worker, at least MIN_SPEED; 1 where it is not measured.
    """
    rates = [pace.request_tokens_per_s for pace in paces]
    measured = [rate for rate in rates if rate]
    if not measured:
        return [1.0] * len(rates)
    mean = sum(measured) / len(measured)
    return [max(rate / mean, MIN_SPEED) if rate else 1.0 for rate in rates]


def _blend(old: float, new: float, kept: float) -> float:
    return kept * old + (1 - kept) * new if old else new
