"""Assign requests to workers: pure functions over numpy columns."""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

RequestCounts = NDArray[np.int64]
"""(W,) number of requests of each worker."""
WorkerIndices = NDArray[np.int64]
"""(R,) worker of each request, as an index into the given workers."""
Rates = NDArray[np.float64]
"""(W,) throughput of each worker."""
NO_LIMIT = 2**31
"""An allowance that never limits."""
LAST_OVER_MEAN = 1.5
"""Time for a full worker to finish its requests, in mean answer times; bench.tail gains by 1 to 2.5."""


class LoadRank(NamedTuple):
    """Sort key of Server dispatch: the worker with the smallest rank gets the next request."""

    waiting_prefill_tokens: int
    """Prompt tokens of requests without a first token."""
    relative_outstanding: float
    """Requests sent and not finished, divided by the worker's relative speed."""
    last_prompt_ns: int
    """When the worker got its last prompt."""


class Ranked(Protocol):
    """A worker with its rank."""

    rank: LoadRank


Worker = TypeVar("Worker", bound=Ranked)
_RANK = attrgetter("rank")


def ceiling(outstanding: int, window: int, allowance: int) -> int:
    """Return how many Offline requests a worker may have now.

    The limits are its window, and its allowance for new requests. It may always have one: no worker is idle
    while requests wait.

    Args:
        outstanding: Requests that it has.
        window: Its slots plus prefetch.
        allowance: New requests that it may still get; see `allowances`.
    """
    return min(window, max(outstanding + allowance, 1))


def allowances(
    num_requests: int, slots: RequestCounts, tokens_per_s: Rates, last_over_mean: float = LAST_OVER_MEAN
) -> RequestCounts:
    """Divide the waiting requests so that workers of unequal speed finish at the same time.

    After its last new request a worker must still finish the requests in its slots. A slow worker takes
    longer for that and must stop earlier. A full set of slots counts as `last_over_mean` times as many
    requests. The mean answer length cancels out, because it is the same for all workers.

    Args:
        num_requests: Requests not sent to a worker yet.
        slots: (W,) requests that each worker runs concurrently.
        tokens_per_s: (W,) measured with full slots; 0: not measured, the others' mean per slot is used.
        last_over_mean: Time for a full worker to finish its requests, in mean answer times at full speed.

    Returns:
        (W,) new requests that each worker may get. Their sum is num_requests; if no worker has been measured,
        each is NO_LIMIT.
    """
    measured = tokens_per_s > 0
    if not measured.any():
        return np.full(len(slots), NO_LIMIT)
    mean_rate = tokens_per_s[measured].sum() / slots[measured].sum()
    rates = np.where(measured, tokens_per_s, mean_rate * slots)
    held = slots.astype(np.float64) * last_over_mean
    return _whole(np.maximum(rates * _end(num_requests, rates, held) - held, 0), num_requests)


def _end(num_requests: int, rates: Rates, held: Rates) -> float:
    """Return the common finish time of the workers that get requests.

    Args:
        num_requests: Requests to divide.
        rates: (W,) throughputs, in requests per any unit of time.
        held: (W,) requests that each worker already has.
    """
    own_ends = held / rates
    order = np.argsort(own_ends)
    ends = (num_requests + np.cumsum(held[order])) / np.cumsum(rates[order])
    # A worker gets no requests if the faster ones finish all of them before it has finished its own.
    num_takers = int(np.argmax(np.append(own_ends[order][1:], np.inf) >= ends)) + 1
    return float(ends[num_takers - 1])


def _whole(parts: Rates, total: int) -> RequestCounts:
    """Round parts, (W,), to integers with sum `total`; each changes by less than one."""
    if not total:
        return np.zeros(len(parts), np.int64)
    ends = np.floor(np.cumsum(parts) * (total / parts.sum()) + 0.5).astype(np.int64)
    return np.diff(ends, prepend=0)


def share(outstanding: RequestCounts, windows: RequestCounts, num_requests: int) -> RequestCounts:
    """Divide requests so that workers end up equally full; no worker exceeds its window.

    Args:
        outstanding: (W,) requests that each worker has.
        windows: (W,) requests that each worker may have.
        num_requests: Requests to divide.

    Returns:
        (W,) new requests of each worker; their sum is the minimum of num_requests and the free room.
    """
    free: RequestCounts = np.maximum(windows - outstanding, 0)
    if free.sum() <= num_requests:
        return free
    low, high = 0, int(windows.max())
    while low < high:
        level = (low + high + 1) // 2
        if np.clip(level - outstanding, 0, free).sum() <= num_requests:
            low = level
        else:
            high = level - 1
    shares: RequestCounts = np.clip(low - outstanding, 0, free)
    rest = num_requests - int(shares.sum())
    takers = np.flatnonzero((shares < free) & (outstanding + shares <= low))[:rest]
    shares[takers] += 1
    return shares


def interleave_shares(shares: RequestCounts) -> WorkerIndices:
    """Interleave the workers' shares, so that each gets its part of long prompts sorted by length.

    Args:
        shares: (W,) requests of each worker.

    Returns:
        (sum(shares),) worker of each request, in order.
    """
    workers = np.repeat(np.arange(len(shares)), shares)
    turns = np.concatenate([(np.arange(n) + 0.5) / n for n in shares if n] or [np.zeros(0)])
    return workers[np.argsort(turns, kind="stable")]


def least_loaded(workers: Sequence[Worker]) -> Worker:
    """Choose the worker for one Server request.

    Criteria, in order: least waiting prefill, fewest outstanding requests relative to its speed, longest time
    since its last prompt, lowest index. Round robin and other policies perform badly when slots are nearly
    full or workers are unequal.
    """
    return min(workers, key=_RANK)
