"""Measured throughput of a worker: one reading per beat, exponential moving averages over seconds."""

import math
from typing import NamedTuple

TIME_CONSTANT_S = 5.0
"""Time constant of the moving averages, in seconds: a slower worker is noticed within a few beats."""
PREFETCH_MARGIN = 2.0
"""How many times faster than on average requests may end while a refill is on its way."""
MIN_SPEED = 0.1
"""Lower bound of a relative speed: a stalled worker still gets some requests, and no division by 0."""


class Reading(NamedTuple):
    """Counts of one stream at a beat."""

    at_ns: int
    """Coordinator's monotonic clock."""
    num_tokens: int
    """Tokens received since the stream was opened."""
    num_finished: int
    """Requests finished since then."""
    outstanding: int
    """Requests sent and not finished."""
    most_finished: int
    """Most requests that ended in one frame since the previous reading."""
    refill_s: float
    """Longest delay since the previous reading from an end on the worker to here, plus one round trip."""


class Throughput(NamedTuple):
    """A worker's measured speed; 0: not measured yet."""

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


def measure(throughput: Throughput, before: Reading, now: Reading, max_num_seqs: int) -> Throughput:
    """Update a throughput, once per beat.

    A worker without requests, or without a token so far, keeps its throughput.

    Args:
        throughput: As of `before`.
        before: Reading at the last beat, of the same stream.
        now: Later than `before`.
        max_num_seqs: The worker's slots.
    """
    elapsed_s = (now.at_ns - before.at_ns) / 1e9
    tokens_per_s = (now.num_tokens - before.num_tokens) / elapsed_s
    outstanding = (before.outstanding + now.outstanding) / 2
    if not outstanding or not (tokens_per_s or throughput.request_tokens_per_s):
        return throughput
    kept = math.exp(-elapsed_s / TIME_CONSTANT_S)
    full = min(before.outstanding, now.outstanding) >= max_num_seqs
    return Throughput(
        _blend(throughput.full_tokens_per_s, tokens_per_s, kept) if full else throughput.full_tokens_per_s,
        _blend(throughput.request_tokens_per_s, tokens_per_s / outstanding, kept),
        _blend(throughput.finished_per_s, (now.num_finished - before.num_finished) / elapsed_s, kept),
        max(now.most_finished, throughput.burst * kept),
        max(now.refill_s, throughput.refill_s * kept),
    )


def prefetch(throughput: Throughput, max_num_seqs: int) -> int:
    """Compute the least number of requests beyond the slots that never starves a worker.

    What ends in one frame, and what ends while its refill is on the way; at least 1, at most an eighth of the
    slots, which is what a worker gets until it has been measured.
    """
    most = max(max_num_seqs // 8, 1)
    if not throughput.burst:
        return most
    needed = throughput.burst + PREFETCH_MARGIN * throughput.finished_per_s * throughput.refill_s
    return min(max(math.ceil(needed), 1), most)


def relative_speeds(throughputs: list[Throughput]) -> list[float]:
    """Compare tokens/s of each outstanding request with the mean of the workers that were measured.

    Tokens/s of a whole worker would not do: one with fewer requests would look slow and get fewer still.

    Returns:
        One per worker, at least MIN_SPEED; 1 where it is not measured.
    """
    rates = [throughput.request_tokens_per_s for throughput in throughputs]
    measured = [rate for rate in rates if rate]
    if not measured:
        return [1.0] * len(rates)
    mean = sum(measured) / len(measured)
    return [max(rate / mean, MIN_SPEED) if rate else 1.0 for rate in rates]


def _blend(old: float, new: float, kept: float) -> float:
    return kept * old + (1 - kept) * new if old else new
