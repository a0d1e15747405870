"""What a coordinator carries, from its costs: the planned load's share, and the largest rates."""

from typing import NamedTuple

from coordinator.doctor.capacity import HELD_FRAMES_PER_S, WARN_CORES, CoordinatorCosts, CoordinatorLoad


class CarriedLoad(NamedTuple):
    """Limits of one coordinator; latency grows beyond WARN_CORES of its one core."""

    cores: float
    """Of the planned load; without a planned rate, of its idle workers."""
    share: float
    """Of WARN_CORES."""
    max_queries_per_s: float
    """With the planned workers."""
    max_tokens_per_s: float
    """At that rate."""
    max_workers: int
    """At the planned rate; without one, workers of which each sends frames and none has queries."""


def carried_load(costs: CoordinatorCosts, load: CoordinatorLoad) -> CarriedLoad:
    """Return the limits around a planned load.

    Args:
        costs: Of this host.
        load: The plan; a rate of 0 asks for the limits alone.
    """
    cores = costs.cores(load)
    at_rest = costs.cores(load._replace(queries_per_s=0.0))
    per_query = costs.cores(load._replace(queries_per_s=1.0)) - at_rest
    queries_per_s = max(WARN_CORES - at_rest, 0.0) / per_query
    without_workers = costs.cores(load._replace(num_workers=0))
    workers = max(WARN_CORES - without_workers, 0.0) / (costs.frame * HELD_FRAMES_PER_S)
    return CarriedLoad(
        cores=cores,
        share=cores / WARN_CORES,
        max_queries_per_s=queries_per_s,
        max_tokens_per_s=queries_per_s * load.answer_len,
        max_workers=int(workers),
    )
