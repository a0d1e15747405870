"""What continuing requests on other replicas near the end would bring, in virtual time.

A continued request is prefilled again, prompt and tokens so far, while everything else on the replica that
takes it waits: more than chunked prefill costs, so the gain is not flattered.
"""

import heapq
from typing import NamedTuple

import numpy as np

from bench.replicas import Floats, Replica

LOOK_S = 5.0
"""Time between looks at the fleet."""


class Continued(NamedTuple):
    """How the fleet ended."""

    end_s: float
    num_moved: int
    prefill_s: float
    """Time for prefilling again, per replica."""


def finish(replicas: list[Replica], over: float, prompt_len: int) -> Continued:
    """Empty a fleet for which no request waits any more, and move requests off the fullest replicas.

    At each look those that hold more than `over` times what their speed deserves give their youngest requests
    up, whose prefill is shortest and whose end is farthest, to those that hold less.

    Args:
        replicas: Each with what it holds; they are emptied.
        over: Above 1; nearer to 1 moves more.
        prompt_len: Tokens of a prompt, on average.
    """
    speeds = np.array([replica.speed for replica in replicas])
    at_s = max(replica.now_s for replica in replicas)
    ends_s = np.array([replica.now_s for replica in replicas])
    num_moved, prefill_s = 0, 0.0
    while any(replica.outstanding for replica in replicas):
        at_s += LOOK_S
        for k, replica in enumerate(replicas):
            ends_s[k] = max(ends_s[k], _run(replica, at_s))
        moved = _take_young(replicas, speeds, over)
        num_moved += len(moved)
        prefill_s += _hand_on(replicas, speeds, moved, prompt_len)
    return Continued(float(ends_s.max()), num_moved, prefill_s / len(replicas))


def _run(replica: Replica, to_s: float) -> float:
    """Run until a time; returns when the last request ended, 0 where none did."""
    last_s = 0.0
    while replica.next_end_s <= to_s:
        replica.end_one()
        last_s = replica.now_s
    if replica.now_s < to_s:
        replica.advance(to_s)
    return last_s


def _deserved(replicas: list[Replica], speeds: Floats) -> Floats:
    """Share out what all hold by speed, (W,)."""
    deserved: Floats = speeds * (sum(replica.outstanding for replica in replicas) / speeds.sum())
    return deserved


def _take_young(replicas: list[Replica], speeds: Floats, over: float) -> list[tuple[float, float]]:
    """Take requests off the fullest, as (tokens to come, tokens so far); no more than fit."""
    deserved = _deserved(replicas, speeds)
    held = np.array([replica.outstanding for replica in replicas])
    room = int(np.floor(deserved - held).clip(0).sum())
    moved: list[tuple[float, float]] = []
    for k in np.argsort(-held / speeds):
        replica = replicas[k]
        num = min(int(held[k] - over * deserved[k] - 1), room - len(moved))
        if num <= 0:
            continue
        replica.running.sort(key=lambda request: -request[1])
        young, replica.running = replica.running[:num], replica.running[num:]
        heapq.heapify(replica.running)
        moved += [(end - replica.num_steps, replica.num_steps - begun) for end, begun in young]
    return moved


def _hand_on(
    replicas: list[Replica], speeds: Floats, moved: list[tuple[float, float]], prompt_len: int
) -> float:
    """Give requests to the emptiest; returns the time that prefilling them again takes."""
    if not moved:
        return 0.0
    deserved = _deserved(replicas, speeds) * (1 + len(moved) / sum(r.outstanding for r in replicas))
    prefill_s = 0.0
    for k in np.argsort([replica.outstanding / replica.speed for replica in replicas]):
        replica = replicas[k]
        num = max(int(deserved[k]) - replica.outstanding, 0)
        taken, moved = moved[:num], moved[num:]
        for to_come, so_far in taken:
            heapq.heappush(replica.running, (replica.num_steps + to_come, replica.num_steps - so_far))
        tokens = sum(so_far + prompt_len for _, so_far in taken)
        cost_s = tokens / replica.cost.prefill_tokens_per_s / replica.speed
        replica.now_s += cost_s
        prefill_s += cost_s
    assert not moved, "requests were taken without a place for them"
    return prefill_s
