"""Replicas with continuous batching in virtual time, without sockets or engines.

A step of n running sequences takes step_s + sequence_s * n at speed 1 and adds one token to each of them. A
replica stores for each sequence the step at which it ends, so that only ends and starts are events.
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
    """Step time of a replica of speed 1."""

    step_s: float = 0.010
    sequence_s: float = 0.000_06
    """Additional time of a step per running sequence."""
    max_num_seqs: int = 1_792
    """Sequences that run at once."""


class Replica:
    """One replica: its running and waiting requests and its progress."""

    def __init__(self, cost: Cost, speed: float) -> None:
        self.cost = cost
        self.speed = speed
        self.now_s = 0.0
        self.num_steps = 0.0
        self.num_tokens = 0.0
        """Tokens produced so far."""
        self.num_finished = 0
        self.running: list[tuple[float, float]] = []
        """Heap of (step at which it ends, step at which it began); a continued request began earlier."""
        self.waiting: deque[int] = deque()
        """Answer lengths of requests without a slot."""

    @property
    def outstanding(self) -> int:
        """Return the number of running and waiting requests."""
        return len(self.running) + len(self.waiting)

    @property
    def step_s(self) -> float:
        """Return the duration of the next step."""
        return (self.cost.step_s + self.cost.sequence_s * len(self.running)) / self.speed

    @property
    def next_end_s(self) -> float:
        """Return the time at which the next request ends; infinity if none runs."""
        if not self.running:
            return float("inf")
        return self.now_s + (self.running[0][0] - self.num_steps) * self.step_s

    def give(self, answer_len: int) -> None:
        """Add one request; it runs as soon as a slot is free."""
        if len(self.running) < self.cost.max_num_seqs:
            heapq.heappush(self.running, (self.num_steps + answer_len, self.num_steps))
        else:
            self.waiting.append(answer_len)

    def advance(self, to_s: float) -> None:
        """Run until `to_s`, which must not be after the next end."""
        steps = (to_s - self.now_s) / self.step_s
        self.num_steps += steps
        self.num_tokens += steps * len(self.running)
        self.now_s = to_s

    def end_one(self) -> None:
        """Run until the next request ends, and start a waiting one."""
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
        """Run all requests to their end; return the time of the last end."""
        while self.running:
            self.end_one()
        return self.now_s


Refill = Callable[[int], None]
"""Called with the index of a replica in which a request has ended."""
Beat = Callable[[float], None]


def run_until(
    replicas: list[Replica], refill: Refill, beat: Beat, has_more: Callable[[], bool], beat_s: float = 1.0
) -> None:
    """Process events in order while `has_more`; a beat runs before the first event after its time.

    Args:
        replicas: Replicas; each has requests.
        refill: May give the replica more requests.
        beat: May give any replica more requests.
        has_more: Returns whether requests are left to give out.
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
    """Draw answer lengths, (num,): lognormal; mean and coefficient of variation apply before the cap."""
    variance = np.log(1 + cv**2)
    drawn = np.random.default_rng(seed).lognormal(np.log(mean) - variance / 2, np.sqrt(variance), num)
    return np.clip(np.ceil(drawn), 1, cap).astype(np.int64)


def spread_speeds(num_replicas: int, spread: float) -> Floats:
    """Return speeds spaced evenly around 1, (num_replicas,): fastest minus slowest is `spread`."""
    return np.linspace(1 - spread / 2, 1 + spread / 2, num_replicas)
