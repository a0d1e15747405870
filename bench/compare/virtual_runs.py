"""Runs in virtual time, with the records that `tokenfleet report compare` reads."""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.compare.measured_noise import CPU_DEVIATION, MAX_DRIFT, WINDOW_S, RunNoise, draw_noise
from bench.tail.virtual_replicas import Cost, Ints, Replica, draw_answer_lens
from sut.results.comparison.compared_runs import ComparedRun, Side

COST = Cost(step_s=0.0291, sequence_s=0.000_047_6, max_num_seqs=512)
"""Step time of the simulated engine (worker/engines/scripted/cost_model.py)."""
NUM_SAMPLES = 6_396
"""Samples of the performance data set."""
CPU_S_PER_MILLION_TOKENS = 2.6
"""2026-11-29-h200-official."""
LENGTH_DEVIATION = 0.3
"""Of the logarithm of an answer's length between runs, at temperature 1; assumed, not measured."""
FIRST_START_S = 1_700_000_000.0
PAUSE_S = 60.0
"""Between two runs."""


def draw_pair(seed: int, repeats: int, slowdown: float) -> list[Side]:
    """Run both sides in turns: A B, B A, A B and so on.

    Args:
        seed: Of all noise of this comparison.
        repeats: Runs of each side.
        slowdown: B's speed is 1 - slowdown of A's.
    """
    generator = np.random.default_rng(seed)
    drift = generator.uniform(-MAX_DRIFT, MAX_DRIFT)
    order = [name for k in range(repeats) for name in ("AB" if k % 2 == 0 else "BA")]
    runs: dict[str, list[ComparedRun]] = {"A": [], "B": []}
    start_s = FIRST_START_S
    for number, name in enumerate(order):
        place = number / (len(order) - 1) - 0.5
        noise = draw_noise(generator, drift, place)
        speed = 1 - slowdown if name == "B" else 1.0
        lens = _draw_lens(generator)
        times = _run_offline(lens, speed, noise)
        record = _record(lens, times, generator, f"{name}{number}")
        started = datetime.fromtimestamp(start_s, UTC).isoformat(timespec="seconds")
        rate = times.tokens_before_tail / times.tail_s
        runs[name].append(ComparedRun(Path(f"{name}{number}"), record | {"started_utc": started}, rate))
        start_s += times.end_s + PAUSE_S
    return [Side(name, Path(name), tuple(found)) for name, found in runs.items()]


class RunTimes(NamedTuple):
    """Course of one Offline run."""

    end_s: float
    tail_s: float
    """When the last request began."""
    tokens_before_tail: float


def _draw_lens(generator: np.random.Generator) -> Ints:
    """Draw the answers of a run: those of the data set, each longer or shorter than its mean by chance."""
    means = draw_answer_lens(NUM_SAMPLES, seed=0)
    factors = generator.lognormal(-(LENGTH_DEVIATION**2) / 2, LENGTH_DEVIATION, NUM_SAMPLES)
    return np.clip(np.ceil(means * factors), 1, 10_240).astype(np.int64)


def _record(
    answer_lens: Ints, times: RunTimes, generator: np.random.Generator, name: str
) -> dict[str, object]:
    """Return the record of a run without its start."""
    tokens = int(answer_lens.sum())
    cpu_s = CPU_S_PER_MILLION_TOKENS * tokens / 1e6 * float(np.exp(generator.normal(0.0, CPU_DEVIATION)))
    return {
        "run_id": name,
        "scenario": "offline",
        "mode": "performance",
        "verdict": {"outcome": "VALID"},
        "test_cpu_s": cpu_s,
        "loadgen": {
            "result_tokens_per_second": tokens / times.end_s,
            "result_samples_per_second": len(answer_lens) / times.end_s,
        },
        "summary": {"answer_tokens": {"count": len(answer_lens), "mean": tokens / len(answer_lens)}},
    }


def _run_offline(answer_lens: Ints, speed: float, noise: RunNoise) -> RunTimes:
    """Run all requests on one replica whose speed changes with each window."""
    replica = Replica(COST, speed * noise.speed(0))
    for answer_len in answer_lens.tolist():
        replica.give(answer_len)
    window = 0
    tail_s = tokens_before_tail = 0.0
    while replica.running:
        if replica.next_end_s > (window + 1) * WINDOW_S:
            window += 1
            replica.advance(window * WINDOW_S)
            replica.speed = speed * noise.speed(window)
            continue
        replica.end_one()
        if not tail_s and not replica.waiting:
            tail_s, tokens_before_tail = replica.now_s, replica.num_tokens
    return RunTimes(replica.now_s, tail_s, tokens_before_tail)
