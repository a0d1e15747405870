"""Who gets what: pure functions over plain columns, tested apart from any socket."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class WorkerLoad(NamedTuple):
    """One worker as dispatch sees it."""

    waiting_prefill_tokens: int
    """Prompt tokens of requests that have no first token yet."""
    outstanding: int
    """Requests sent and not finished."""
    last_prompt_ns: int
    """When it got its last prompt."""


def offline_order(prompt_lens: Ints, block_len: int) -> Ints:
    """Order an Offline query: longest prompt first inside each block of one data-set copy.

    Sorting is allowed inside a copy of the data set, never across copies.
    Source: MLPerf inference_rules.adoc, the gpt-oss-120b rows.

    Args:
        prompt_lens: (N,) in the order of issue.
        block_len: Samples of one copy.

    Returns:
        (N,) positions in the query.
    """
    blocks = np.arange(len(prompt_lens)) // block_len
    order: Ints = np.lexsort((-prompt_lens, blocks))
    return order


def window(max_num_seqs: int) -> int:
    """Compute how many Offline requests a worker may hold: its running slots, and an eighth to follow."""
    return max_num_seqs + max(max_num_seqs // 8, 1)


def share(outstanding: Ints, windows: Ints, num_requests: int) -> Ints:
    """Split requests so that the fullest windows get the least; nobody gets more than its window holds.

    Args:
        outstanding: (W,) requests each worker has.
        windows: (W,) requests each may have.
        num_requests: Requests to give away.

    Returns:
        (W,) how many each gets; the sum is the smaller of num_requests and the free places.
    """
    free: Ints = np.maximum(windows - outstanding, 0)
    if free.sum() <= num_requests:
        return free
    low, high = 0, int(windows.max())
    while low < high:
        level = (low + high + 1) // 2
        if np.clip(level - outstanding, 0, free).sum() <= num_requests:
            low = level
        else:
            high = level - 1
    shares: Ints = np.clip(low - outstanding, 0, free)
    rest = num_requests - int(shares.sum())
    takers = np.flatnonzero((shares < free) & (outstanding + shares <= low))[:rest]
    shares[takers] += 1
    return shares


def deal(shares: Ints) -> Ints:
    """Deal requests like cards, so that each worker gets its part of the long and of the short ones.

    Args:
        shares: (W,) how many each worker gets.

    Returns:
        (sum(shares),) the worker of each request, in order.
    """
    workers = np.repeat(np.arange(len(shares)), shares)
    turns = np.concatenate([(np.arange(n) + 0.5) / n for n in shares if n] or [np.zeros(0)])
    return workers[np.argsort(turns, kind="stable")]


def least_loaded(loads: list[WorkerLoad]) -> int:
    """Choose the worker for one Server request.

    Least waiting prefill, then fewest outstanding requests, then the longest since its last prompt: measured
    against round robin and others, which collapse near full slots or with unequal workers.
    """
    return min(range(len(loads)), key=loads.__getitem__)
