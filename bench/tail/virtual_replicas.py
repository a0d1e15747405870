"""Replicas with continuous batching in virtual time, without a socket or an engine.

A step of n running sequences takes step_s + sequence_s * n at speed 1 and gives each of them a token. A
replica keeps for each sequence the step at which it ends, so that only ends and starts are events.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Cost(NamedTuple):
    """What a replica of speed 1 takes."""

    step_s: float = 0.010
    sequence_s: float = 0.000_06
    """More per step for each running sequence."""
    max_num_seqs: int = 1_792
    """Sequences that run at once."""


class Replica:
    """One replica: what runs, what waits there, and how far it is."""

    def __init__(self, cost: Cost, speed: float) -> None:
        self.cost = cost
        self.speed = speed
        self.now_s = 0.0
        self.num_steps = 0.0
        self.num_tokens = 0.0
        """Produced so far."""
        self.num_finished = 0
        self.running: list[tuple[float, float]] = []
        """Heap of (step at which it ends, step at which it began); one that was continued began earlier."""
        self.waiting: deque[int] = deque()
        """Answer lengths of requests beyond the slots."""

    @property
    def outstanding(self) -> int:
        """Requests it has."""
        return len(self.running) + len(self.waiting)

    @property
    def step_s(self) -> float:
        """How long the next step takes."""
        return (self.cost.step_s + self.cost.sequence_s * len(self.running)) / self.speed

    @property
    def next_end_s(self) -> float:
        """When the next request ends; infinity where none runs."""
        if not self.running:
            return float("inf")
        return self.now_s + (self.running[0][0] - self.num_steps) * self.step_s

    def give(self, answer_len: int) -> None:
        """Take one request; it runs as soon as a slot is free."""
        if len(self.running) < self.cost.max_num_seqs:
            heapq.heappush(self.running, (self.num_steps + answer_len, self.num_steps))
        else:
            self.waiting.append(answer_len)

    def advance(self, to_s: float) -> None:
        """Run until a time that no end precedes."""
        steps = (to_s - self.now_s) / self.step_s
        self.num_steps += steps
        self.num_tokens += steps * len(self.running)
        self.now_s = to_s

    def end_one(self) -> None:
        """Run until the next request ends, and start one that waits."""
        steps = self.running[0][0] - self.num_steps
        self.now_s = self.next_end_s
        self.num_tokens += steps * len(self.running)
        self.num_steps = self.running[0][0]
        self.num_finished += 1
        if self.waiting:
            heapq.heapreplace(self.running, (self.num_steps + self.waiting.popleft(), self.num_steps))
        else:
            heapq.heappop(self.running)

    def empty(self) -> float:
        """Run what it has to its end; returns when that is."""
        while self.running:
            self.end_one()
        return self.now_s


Refill = Callable[[int], None]
"""Called with a replica's index when a request of it has ended."""
Beat = Callable[[float], None]


def run_until(
    replicas: list[Replica], refill: Refill, beat: Beat, has_more: Callable[[], bool], beat_s: float = 1.0
) -> None:
    """Let events happen in order while `has_more`; a beat falls before the first event behind its time.

    Args:
        replicas: Every one with requests.
        refill: May give the replica more.
        beat: May give any replica more.
        has_more: Whether requests wait for a replica.
        beat_s: Time between beats.
    """
    events = [(replica.next_end_s, k) for k, replica in enumerate(replicas)]
    heapq.heapify(events)
    next_beat_s = beat_s
    while has_more():
        at_s, k = events[0]
        if at_s > next_beat_s:
            for replica in replicas:
                replica.advance(next_beat_s)
            beat(next_beat_s)
            next_beat_s += beat_s
            events = [(replica.next_end_s, k) for k, replica in enumerate(replicas)]
            heapq.heapify(events)
            continue
        replicas[k].end_one()
        refill(k)
        heapq.heapreplace(events, (replicas[k].next_end_s, k))


def draw_answer_lens(num: int, seed: int, mean: float = 1_278.0, cv: float = 1.2, cap: int = 10_240) -> Ints:
    """Draw answer lengths, (num,): lognormal, of a mean and coefficient of variation before the cap."""
    variance = np.log(1 + cv**2)
    drawn = np.random.default_rng(seed).lognormal(np.log(mean) - variance / 2, np.sqrt(variance), num)
    return np.clip(np.ceil(drawn), 1, cap).astype(np.int64)


def spread_speeds(num_replicas: int, spread: float) -> Floats:
    """Space speeds evenly around 1, (num_replicas,): the fastest is `spread` above the slowest."""
    return np.linspace(1 - spread / 2, 1 + spread / 2, num_replicas)
