"""Which worker gets which requests: pure functions over plain columns."""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

RequestCounts = NDArray[np.int64]
"""(W,) requests of each worker."""
WorkerIndices = NDArray[np.int64]
"""(R,) the worker of each request, as a position among those given."""
Rates = NDArray[np.float64]
"""(W,) speed of each worker."""
NO_LIMIT = 2**31
"""An allowance that never binds."""
LAST_OVER_MEAN = 1.5
"""Time in which full slots empty, in mean answers at full speed; from 1 to 2.5 bench.tail gains by it."""


class LoadRank(NamedTuple):
    """The order in which Server dispatch prefers workers; the smallest gets the next request."""

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
    """Compute how many Offline requests a worker may hold now.

    Never more than its window, and no more new ones than its part of the rest allows. It may always hold one:
    no worker is idle while requests wait, whatever was measured.

    Args:
        outstanding: What it holds.
        window: Its running slots and prefetch.
        allowance: New requests that it may still take, see `allowances`.
    """
    return min(window, max(outstanding + allowance, 1))


def allowances(
    num_requests: int, slots: RequestCounts, tokens_per_s: Rates, last_over_mean: float = LAST_OVER_MEAN
) -> RequestCounts:
    """Divide the requests that wait, so that workers of unequal speed finish together.

    A worker that has taken its last request still has full slots to empty, which takes a slow one longer: it
    must stop taking earlier. Full slots count as `last_over_mean` times as many requests. Answer lengths do
    not enter: their mean is the same for all workers, and drops out.

    Args:
        num_requests: Requests that no worker has yet.
        slots: (W,) requests each runs at once.
        tokens_per_s: (W,) measured with full slots; where it is 0, the mean of the others by slots is taken.
        last_over_mean: Time in which full slots empty, in mean answers at full speed.

    Returns:
        (W,) new requests that each may take; their sum is num_requests, or NO_LIMIT each where nothing is
        measured.
    """
    measured = tokens_per_s > 0
    if not measured.any():
        return np.full(len(slots), NO_LIMIT)
    mean_rate = tokens_per_s[measured].sum() / slots[measured].sum()
    rates = np.where(measured, tokens_per_s, mean_rate * slots)
    held = slots.astype(np.float64) * last_over_mean
    return _whole(np.maximum(rates * _end(num_requests, rates, held) - held, 0), num_requests)


def _end(num_requests: int, rates: Rates, held: Rates) -> float:
    """Find when all finish, if those take requests that can finish them by then.

    Args:
        num_requests: To be divided.
        rates: (W,) speeds, in any unit of requests by time.
        held: (W,) requests that each has before.
    """
    own_ends = held / rates
    order = np.argsort(own_ends)
    ends = (num_requests + np.cumsum(held[order])) / np.cumsum(rates[order])
    # The next slower one takes none when the others are done before it has finished what it holds.
    num_takers = int(np.argmax(np.append(own_ends[order][1:], np.inf) >= ends)) + 1
    return float(ends[num_takers - 1])


def _whole(parts: Rates, total: int) -> RequestCounts:
    """Round parts, (W,), to whole numbers that sum to `total`: each is off by less than one."""
    if not total:
        return np.zeros(len(parts), np.int64)
    ends = np.floor(np.cumsum(parts) * (total / parts.sum()) + 0.5).astype(np.int64)
    return np.diff(ends, prepend=0)


def share(outstanding: RequestCounts, windows: RequestCounts, num_requests: int) -> RequestCounts:
    """Split requests so that the fullest windows get the least; nobody gets more than its window holds.

    Args:
        outstanding: (W,) requests each worker has.
        windows: (W,) requests each may have.
        num_requests: Requests to give away.

    Returns:
        (W,) how many each gets; the sum is the smaller of num_requests and the free places.
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


def deal(shares: RequestCounts) -> WorkerIndices:
    """Deal requests like cards: of prompts in order of length each worker gets its part of the long ones.

    Args:
        shares: (W,) how many each worker gets.

    Returns:
        (sum(shares),) the worker of each request, in order.
    """
    workers = np.repeat(np.arange(len(shares)), shares)
    turns = np.concatenate([(np.arange(n) + 0.5) / n for n in shares if n] or [np.zeros(0)])
    return workers[np.argsort(turns, kind="stable")]


def least_loaded(workers: Sequence[Worker]) -> Worker:
    """Choose the worker for one Server request.

    Least waiting prefill, then fewest outstanding requests over its speed, then the longest since its last
    prompt, then the first. Round robin and others collapse near full slots or with unequal workers.
    """
    return min(workers, key=_RANK)
