"""Throughput of a worker: exponential moving averages over one reading per beat."""

import math
from typing import NamedTuple

TIME_CONSTANT_S = 5.0
"""Time constant of the moving averages, in seconds; a slower worker is detected within a few beats."""
PREFETCH_MARGIN = 2.0
"""Assumed ratio of peak to mean completion rate while a refill is in transit."""
MIN_SPEED = 0.1
"""Lower bound of a relative speed; avoids division by 0, and a stalled worker still gets some requests."""


class Reading(NamedTuple):
    """Counts of one stream at a beat."""

    at_ns: int
    """Coordinator's monotonic clock."""
    num_tokens: int
    """Tokens received since the stream was opened."""
    num_finished: int
    """Requests finished since the stream was opened."""
    outstanding: int
    """Requests sent and not finished."""
    most_finished: int
    """Largest number of requests finished by one frame since the previous reading."""
    refill_s: float
    """Longest delay from a completion on the worker to its report here since the previous reading, plus one
    round trip."""


class Throughput(NamedTuple):
    """A worker's measured speed; 0: not measured yet."""

    full_tokens_per_s: float = 0.0
    """Tokens/s of the worker while all its slots are in use."""
    request_tokens_per_s: float = 0.0
    """Tokens/s per outstanding request."""
    finished_per_s: float = 0.0
    """Requests finished per second."""
    burst: float = 0.0
    """Largest number of requests finished by one frame; decays with TIME_CONSTANT_S."""
    refill_s: float = 0.0
    """Longest time from a completion on the worker to the arrival of its replacement; decays likewise."""


def measure(throughput: Throughput, before: Reading, now: Reading, max_num_seqs: int) -> Throughput:
    """Return the throughput after one more beat.

    It is unchanged for a worker without requests, or one that has not returned a token yet.

    Args:
        throughput: Throughput at `before`.
        before: Reading of the same stream at the previous beat.
        now: Current reading.
        max_num_seqs: Number of slots of the worker.
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
    """Return how many requests beyond its slots a worker needs so that no slot is left empty.

    This is the number of requests that finish in one frame plus those that finish while the refill is in
    transit; at least 1, at most an eighth of the slots. An eighth applies until the worker has been measured.
    """
    most = max(max_num_seqs // 8, 1)
    if not throughput.burst:
        return most
    needed = throughput.burst + PREFETCH_MARGIN * throughput.finished_per_s * throughput.refill_s
    return min(max(math.ceil(needed), 1), most)


def relative_speeds(throughputs: list[Throughput]) -> list[float]:
    """Return each worker's tokens/s per outstanding request, relative to the mean of measured workers.

    Tokens/s of the whole worker would be misleading: a worker with fewer requests would look slow and would
    then get even fewer.

    Returns:
        One value per worker, at least MIN_SPEED; 1 if it has not been measured.
    """
    rates = [throughput.request_tokens_per_s for throughput in throughputs]
    measured = [rate for rate in rates if rate]
    if not measured:
        return [1.0] * len(rates)
    mean = sum(measured) / len(measured)
    return [max(rate / mean, MIN_SPEED) if rate else 1.0 for rate in rates]


def _blend(old: float, new: float, kept: float) -> float:
    return kept * old + (1 - kept) * new if old else new
