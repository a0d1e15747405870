"""Policies that assign an Offline query to replicas in virtual time; `ours` is the coordinator's code."""

from collections.abc import Callable

import numpy as np

from bench.tail.virtual_replicas import Cost, Floats, Ints, Replica, run_until
from coordinator.scheduling import routing, throughput
from coordinator.scheduling.throughput import Reading, Throughput

REFILL_S = 0.005
"""Delay from an end to the next prompt's arrival that `ours` assumes; it takes no virtual time."""
Policy = Callable[[Ints, Floats, Cost], list[Replica]]
"""Takes answer lengths (N,) in order of issue and speeds (W,); returns the replicas with all requests."""


def static_split(answer_lens: Ints, speeds: Floats, cost: Cost) -> list[Replica]:
    """Assign a contiguous part of equal size to each replica, as AMD's harness does."""
    return _give_at_once(np.array_split(answer_lens, len(speeds)), speeds, cost)


def round_robin(answer_lens: Ints, speeds: Floats, cost: Cost) -> list[Replica]:
    """Distribute the requests at once, one after the other, as NVIDIA's harness does."""
    return _give_at_once([answer_lens[k :: len(speeds)] for k in range(len(speeds))], speeds, cost)


def plain_pull(answer_lens: Ints, speeds: Floats, cost: Cost) -> list[Replica]:
    """Assign the next request to a replica with a free slot until no request is left."""
    replicas, rest = _fill(answer_lens, speeds, cost)

    def refill(k: int) -> None:
        replicas[k].give(rest.pop())

    run_until(replicas, refill, lambda _: None, lambda: bool(rest))
    return replicas


def clairvoyant(answer_lens: Ints, speeds: Floats, cost: Cost) -> list[Replica]:
    """Pull with the longest answer first: a bound that needs the lengths in advance."""
    return plain_pull(np.sort(answer_lens)[::-1], speeds, cost)


def ours(
    answer_lens: Ints, speeds: Floats, cost: Cost, last_over_mean: float = routing.LAST_OVER_MEAN
) -> list[Replica]:
    """Pull as the coordinator does: measured prefetch, and the remaining requests redivided each second."""
    replicas, rest = _fill(answer_lens, speeds, cost)
    allowed = [routing.NO_LIMIT] * len(replicas)
    rates_by_replica = [Throughput()] * len(replicas)
    windows = [cost.max_num_seqs + throughput.prefetch(Throughput(), cost.max_num_seqs)] * len(replicas)
    readings = [_read(replica, 0.0) for replica in replicas]
    slots = np.full(len(replicas), cost.max_num_seqs)

    def refill(k: int) -> None:
        held = replicas[k].outstanding
        room = min(routing.ceiling(held, windows[k], allowed[k]) - held, len(rest))
        for _ in range(room):
            replicas[k].give(rest.pop())
        allowed[k] = max(allowed[k] - max(room, 0), 0)

    def beat(at_s: float) -> None:
        for k, replica in enumerate(replicas):
            now = _read(replica, at_s)
            rates_by_replica[k] = throughput.measure(rates_by_replica[k], readings[k], now, cost.max_num_seqs)
            windows[k] = cost.max_num_seqs + throughput.prefetch(rates_by_replica[k], cost.max_num_seqs)
            readings[k] = now
        rates = np.array([p.full_tokens_per_s for p in rates_by_replica])
        allowed[:] = routing.allowances(len(rest), slots, rates, last_over_mean).tolist()
        for k in range(len(replicas)):
            refill(k)

    for k in range(len(replicas)):
        refill(k)
    run_until(replicas, refill, beat, lambda: bool(rest))
    return replicas


POLICIES: dict[str, Policy] = {
    "static split": static_split,
    "round robin": round_robin,
    "plain pull": plain_pull,
    "ours": ours,
    "clairvoyant": clairvoyant,
}


def _give_at_once(parts: list[Ints], speeds: Floats, cost: Cost) -> list[Replica]:
    replicas = [Replica(cost, speed) for speed in speeds.tolist()]
    for replica, part in zip(replicas, parts, strict=True):
        for answer_len in part.tolist():
            replica.give(answer_len)
    return replicas


def _fill(answer_lens: Ints, speeds: Floats, cost: Cost) -> tuple[list[Replica], list[int]]:
    """Fill all slots; return the replicas and the remaining requests, which are taken from the list's end."""
    num_slots = cost.max_num_seqs * len(speeds)
    dealt = [answer_lens[k : num_slots : len(speeds)] for k in range(len(speeds))]
    return _give_at_once(dealt, speeds, cost), answer_lens[num_slots:][::-1].tolist()


def _read(replica: Replica, at_s: float) -> Reading:
    """Return what frames would report; one end per frame, because ends are events here."""
    return Reading(
        int(at_s * 1e9), int(replica.num_tokens), replica.num_finished, replica.outstanding, 1, REFILL_S
    )
