"""Estimate whether one core carries a planned rate, from published costs and this core's speed.

Source of the costs: bench/results/README.md, 2026-11-25-fleet, on an AMD EPYC with grpcio 1.85.3.
"""

import time
from typing import NamedTuple

import numpy as np

from coordinator.doctor.findings import Check, Finding, Level, Row
from coordinator.scheduling.request_columns import NewRequests
from coordinator.scheduling.request_table import RequestTable
from protos.columns import TokenColumns, pack_tokens, unpack_tokens
from sut.benchmark import BENCHMARK

# The line of `growth`: cores = idle + frames/s + tokens/s.
IDLE_CORES, FRAME_CORES, TOKEN_CORES = 0.017, 55e-6, 18e-9
# No query begins or ends while `growth` measures. CPU of 892 queries/s in `held` above that line:
# (0.459 - 0.005 of noting - 0.017 - 1,404 x 55 us - 1.143 million x 18 ns) / 892.
QUERY_CORES = 380e-6
# --frame-hold-ms is 20 by default: most frames per second of a worker without first or last tokens.
HELD_FRAMES_PER_S = 50
FRAMES_PER_QUERY = 2
# An upper estimate: for 2,000 queries/s over 72 workers, two frames each, it gives 1.2 core. Measured: 0.78
# core and a TTFT p99 of 5 to 8 ms. One event loop has one core.
WARN_CORES, FAIL_CORES = 0.75, 1.5
# Result of `frame_us`, best of six calls, on an AMD EPYC of the same kind with Python 3.11.7 and numpy 2.3.5.
REFERENCE_FRAME_US = 13.1
NUM_ROWS, NUM_FRAMES, NUM_ROUNDS = 64, 200, 5


class Plan(NamedTuple):
    """The planned rate, and a measurement of this core."""

    queries_per_s: float
    source: str
    """Where the rate is set."""
    num_workers: int
    frame_us: float


def frame_us() -> float:
    """Measure a frame on this core without gRPC: checks, columns, table; best of several rounds, 0.1 s."""
    return min(_round_us() for _ in range(NUM_ROUNDS))


def diagnose_rate(plan: Plan) -> list[Row]:
    """Check the planned rate."""
    frames_per_s = HELD_FRAMES_PER_S * plan.num_workers + FRAMES_PER_QUERY * plan.queries_per_s
    tokens_per_s = BENCHMARK.mean_answer_len * plan.queries_per_s
    published = (
        IDLE_CORES
        + FRAME_CORES * frames_per_s
        + TOKEN_CORES * tokens_per_s
        + QUERY_CORES * plan.queries_per_s
    )
    slowness = plan.frame_us / REFERENCE_FRAME_US
    cores = published * slowness
    seen = (
        f"estimate: at most {cores:.2f} core for {plan.queries_per_s:g} queries/s, "
        f"{frames_per_s:,.0f} frames/s, {tokens_per_s:,.0f} tokens/s; "
        f"this core takes {slowness:.2f} times as long as the published one; rate from {plan.source}"
    )
    findings = []
    if cores > WARN_CORES:
        level = Level.FAIL if cores > FAIL_CORES else Level.WARN
        advice = (
            f"latency grows above {WARN_CORES} core, and the coordinator falls behind above {FAIL_CORES}: "
            "use a faster core, fewer and larger workers, or a longer --frame-hold-ms"
        )
        findings.append(Finding("", level, seen, advice))
    return Check("coordinator", "planned rate").rows(findings, seen)


def _round_us() -> float:
    """Add NUM_FRAMES frames, of NUM_ROWS requests and one token each, to a request table."""
    table = RequestTable(max_new_tokens=NUM_FRAMES, num_slots=NUM_ROWS)
    zeros = np.zeros(NUM_ROWS, np.int64)
    requests = NewRequests(
        np.arange(NUM_ROWS, dtype=np.uint64), zeros, zeros, zeros, sent_ns=0, queries=zeros
    )
    names = table.assign(requests, worker=0)
    columns = TokenColumns(
        requests=names,
        counts=None,
        tokens=np.arange(NUM_ROWS, dtype=np.int32),
        finished_rows=np.zeros(0, np.uint32),
        finish_reasons=np.zeros(0, np.uint8),
        produced_ns=1,
    )
    frames = [pack_tokens(columns, sequence=sequence) for sequence in range(NUM_FRAMES)]
    begun_ns = time.thread_time_ns()
    for sequence, frame in enumerate(frames):
        table.add_tokens(0, unpack_tokens(frame, sequence=sequence), now_ns=1)
    return (time.thread_time_ns() - begun_ns) / NUM_FRAMES / 1e3
