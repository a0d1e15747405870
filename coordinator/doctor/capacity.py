"""Estimate whether one core carries a planned rate, from published costs and this core's speed.

Source of the costs: bench/results/README.md, 2026-11-25-fleet, on an AMD EPYC with grpcio 1.85.3.
"""

import math
import time
from typing import NamedTuple

import numpy as np

from coordinator.doctor.findings import Check, Finding, Level, Row
from coordinator.scheduling.request_columns import NewRequests
from coordinator.scheduling.request_table import RequestTable
from protos.columns import TokenColumns, pack_tokens, unpack_tokens
from sut.benchmark import BENCHMARK

# --frame-hold-ms is 20 by default: most frames per second of a worker without first or last tokens.
HELD_FRAMES_PER_S = 50
FRAMES_PER_QUERY = 2
# An upper estimate: for 2,000 queries/s over 72 workers, two frames each, it gives 1.2 core. Measured: 0.78
# core and a TTFT p99 of 5 to 8 ms. One event loop has one core.
WARN_CORES, FAIL_CORES = 0.75, 1.5
# Result of `frame_us`, best of six calls, on an AMD EPYC of the same kind with Python 3.11.7 and numpy 2.3.5.
REFERENCE_FRAME_US = 13.1
NUM_ROWS, NUM_FRAMES, NUM_ROUNDS = 64, 200, 5


class CoordinatorLoad(NamedTuple):
    """What a coordinator has to carry."""

    queries_per_s: float
    num_workers: int
    answer_len: float = BENCHMARK.mean_answer_len
    """Mean, in tokens."""
    steps_per_s: float = math.inf
    """Steps of one engine, each of which gives at most one frame."""

    @property
    def frames_per_s(self) -> float:
        """Return the largest rate of frames."""
        frames_per_s = HELD_FRAMES_PER_S * self.num_workers + FRAMES_PER_QUERY * self.queries_per_s
        return min(frames_per_s, self.steps_per_s * self.num_workers)

    @property
    def tokens_per_s(self) -> float:
        """Return the rate of answer tokens."""
        return self.answer_len * self.queries_per_s


class CoordinatorCosts(NamedTuple):
    """CPU time of a coordinator, in seconds per second or per unit."""

    idle: float
    frame: float
    token: float
    query: float

    def cores(self, load: CoordinatorLoad) -> float:
        """Return the cores that a load takes, an upper estimate."""
        return (
            self.idle
            + self.frame * load.frames_per_s
            + self.token * load.tokens_per_s
            + self.query * load.queries_per_s
        )


# Idle, frame and token: the line of `growth`. No query begins or ends while `growth` measures; a query is the
# CPU of 892 queries/s in `held` above that line:
# (0.459 - 0.005 of noting - 0.017 - 1,404 x 55 us - 1.143 million x 18 ns) / 892.
PUBLISHED = CoordinatorCosts(idle=0.017, frame=55e-6, token=18e-9, query=380e-6)


class Plan(NamedTuple):
    """The planned rate, and a measurement of this core."""

    queries_per_s: float
    source: str
    """Where the rate is set."""
    num_workers: int
    frame_us: float


def frame_us(num_rows: int = NUM_ROWS) -> float:
    """Measure a frame on this core without gRPC: checks, columns, table; best of several rounds, 0.1 s.

    Args:
        num_rows: Requests in the frame, one token each.
    """
    return min(_round_us(num_rows) for _ in range(NUM_ROUNDS))


def diagnose_rate(plan: Plan) -> list[Row]:
    """Check the planned rate."""
    load = CoordinatorLoad(plan.queries_per_s, plan.num_workers)
    slowness = plan.frame_us / REFERENCE_FRAME_US
    cores = PUBLISHED.cores(load) * slowness
    seen = (
        f"estimate: at most {cores:.2f} core for {plan.queries_per_s:g} queries/s, "
        f"{load.frames_per_s:,.0f} frames/s, {load.tokens_per_s:,.0f} tokens/s; "
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


def _round_us(num_rows: int) -> float:
    """Add NUM_FRAMES frames, of `num_rows` requests and one token each, to a request table."""
    table = RequestTable(max_new_tokens=NUM_FRAMES, num_slots=num_rows)
    zeros = np.zeros(num_rows, np.int64)
    requests = NewRequests(
        np.arange(num_rows, dtype=np.uint64), zeros, zeros, zeros, sent_ns=0, queries=zeros
    )
    names = table.assign(requests, worker=0)
    columns = TokenColumns(
        requests=names,
        counts=None,
        tokens=np.arange(num_rows, dtype=np.int32),
        finished_rows=np.zeros(0, np.uint32),
        finish_reasons=np.zeros(0, np.uint8),
        produced_ns=1,
    )
    frames = [pack_tokens(columns, sequence=sequence) for sequence in range(NUM_FRAMES)]
    begun_ns = time.thread_time_ns()
    for sequence, frame in enumerate(frames):
        table.add_tokens(0, unpack_tokens(frame, sequence=sequence), now_ns=1)
    return (time.thread_time_ns() - begun_ns) / NUM_FRAMES / 1e3
