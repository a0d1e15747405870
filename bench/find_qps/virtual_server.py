"""One simulated engine under LoadGen's Server schedule, in virtual time.

The steps are those of worker/engines/scripted/simulated.py: a test compares both, query by query. The
coordinator and the network take no time here.
"""

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.engines.scripted.cost_model import CostModel

Floats = NDArray[np.float64]
Lens = NDArray[np.int64]


class EngineLimits(NamedTuple):
    """Limits of the simulated engine, under vLLM's names."""

    max_num_seqs: int = 1024
    max_num_batched_tokens: int = 16_384


class Latencies(NamedTuple):
    """Latencies of N queries, in order of issue."""

    ttft_s: Floats
    tpot_s: Floats
    """(latency - TTFT) / (tokens - 1), as LoadGen computes it."""
    latency_s: Floats


def serve(
    issued_s: Floats, prompt_lens: Lens, answer_lens: Lens, costs: CostModel, limits: EngineLimits
) -> Latencies:
    """Serve N queries to their ends.

    Args:
        issued_s: (N,) times of issue, ascending.
        prompt_lens: (N,) tokens to prefill.
        answer_lens: (N,) answers in tokens, at least 2 each.
        costs: Time of a step.
        limits: Of the engine.
    """
    first_s, done_s = np.zeros_like(issued_s), np.zeros_like(issued_s)
    issued, prompts, answers = issued_s.tolist(), prompt_lens.tolist(), answer_lens.tolist()
    waiting: deque[list[int]] = deque()
    ends: dict[int, list[int]] = {}
    num_issued = num_running = step = 0
    now_s = 0.0
    while num_issued < len(issued) or waiting or num_running:
        if not waiting and not num_running:
            now_s = max(now_s, issued[num_issued])
        while num_issued < len(issued) and issued[num_issued] <= now_s:
            waiting.append([num_issued, prompts[num_issued]])
            num_issued += 1
        begun, prefill_tokens = _prefill(waiting, num_running, limits)
        now_s += costs.step_s(num_running, prefill_tokens)
        for query in begun:
            first_s[query] = now_s
            ends.setdefault(step + answers[query] - 1, []).append(query)
        num_running += len(begun)
        ended = ends.pop(step, [])
        done_s[ended] = now_s
        num_running -= len(ended)
        step += 1
    return Latencies(
        ttft_s=first_s - issued_s,
        tpot_s=(done_s - first_s) / (answer_lens - 1),
        latency_s=done_s - issued_s,
    )


def _prefill(waiting: deque[list[int]], num_running: int, limits: EngineLimits) -> tuple[list[int], int]:
    """Use a step's prefill budget; returns the queries whose prefill is complete, and the tokens used."""
    room = limits.max_num_seqs - num_running
    budget = whole = limits.max_num_batched_tokens - num_running
    begun = []
    while waiting and room and budget:
        spent = min(budget, waiting[0][1])
        budget -= spent
        waiting[0][1] -= spent
        if waiting[0][1]:
            break
        begun.append(waiting.popleft()[0])
        room -= 1
    return begun, whole - budget
