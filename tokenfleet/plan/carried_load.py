"""What a coordinator carries, from its costs: the planned load's share, and the largest rates."""

from collections.abc import Callable
from typing import NamedTuple

from coordinator.doctor.capacity import WARN_CORES, CoordinatorCosts, CoordinatorLoad

MAX_QUERIES_PER_S, MAX_WORKERS = 1e6, 100_000
"""Bounds of the search."""


class CarriedLoad(NamedTuple):
    """Limits of one coordinator; latency grows beyond `limit_cores` of its one core."""

    cores: float
    """Of the planned load; without a planned rate, of its idle workers."""
    share: float
    """Of `limit_cores`."""
    max_queries_per_s: float
    """With the planned workers."""
    max_tokens_per_s: float
    """At that rate."""
    max_workers: int
    """At the planned rate; 0 if that rate alone is too much."""
    limit_cores: float
    """WARN_CORES, or less with a CPU quota of less than one core."""


def carried_load(
    costs: CoordinatorCosts, load: CoordinatorLoad, quota_cores: float | None = None
) -> CarriedLoad:
    """Return the limits around a planned load.

    Args:
        costs: Of this host.
        load: The plan; a rate of 0 asks for the limits alone.
        quota_cores: CPU quota of the coordinator; None: it has none.
    """
    cores = costs.cores(load)
    limit_cores = WARN_CORES * min(1.0, quota_cores or 1.0)
    queries_per_s = _largest(
        lambda rate: costs.cores(load._replace(queries_per_s=rate)) <= limit_cores, MAX_QUERIES_PER_S
    )
    workers = _largest(
        lambda num: costs.cores(load._replace(num_workers=round(num))) <= limit_cores, MAX_WORKERS
    )
    return CarriedLoad(
        cores=cores,
        share=cores / limit_cores,
        max_queries_per_s=queries_per_s,
        max_tokens_per_s=queries_per_s * load.answer_len,
        max_workers=round(workers),
        limit_cores=limit_cores,
    )


def _largest(is_carried: Callable[[float], bool], bound: float) -> float:
    """Return the largest value up to `bound` that is carried, 0 if none is; more never takes less."""
    low, high = 0.0, bound
    if is_carried(high):
        return high
    for _ in range(60):
        middle = (low + high) / 2
        if is_carried(middle):
            low = middle
        else:
            high = middle
    return low
