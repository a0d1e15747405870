"""The virtual server is the simulated engine, and searches in virtual time end close to their limits."""

import asyncio

import numpy as np

from bench.find_qps.__main__ import COSTS, make_load, run_length
from bench.find_qps.virtual_search import VirtualTests, bisect_rate
from bench.find_qps.virtual_server import EngineLimits, Floats, serve
from tests.worker.asks import Ask, submit
from tokenfleet.find_qps.rate_search import RateSearch, RunLengthKind, StepKind
from worker.engines.scripted.simulated import SimulatedConfig, SimulatedEngine

# A batch that fills and prompts that need several steps: every rule of the engine applies.
LIMITS = EngineLimits(max_num_seqs=6, max_num_batched_tokens=24)
NUM = 200


def test_the_virtual_server_serves_as_the_simulated_engine() -> None:
    """First and last token of 200 queries come at the same moments as those of the engine itself."""
    rng = np.random.default_rng(3)
    issued_s = np.cumsum(rng.exponential(0.08, NUM))
    prompt_lens, answer_lens = rng.integers(3, 40, NUM), rng.integers(2, 30, NUM)
    found = serve(issued_s, prompt_lens, answer_lens, COSTS, LIMITS)
    first_s, done_s = asyncio.run(engine_times(issued_s.tolist(), prompt_lens.tolist(), answer_lens.tolist()))
    np.testing.assert_allclose(found.ttft_s, first_s - issued_s, atol=1e-9)
    np.testing.assert_allclose(found.latency_s, done_s - issued_s, atol=1e-9)
    assert found.ttft_s.max() > 10 * found.ttft_s.min()


async def engine_times(
    issued_s: list[float], prompt_lens: list[int], answer_lens: list[int]
) -> tuple[Floats, Floats]:
    """Serve the queries with the engine, whose steps take virtual time; returns (N,) first and last times."""
    now_s, num_issued = 0.0, 0

    def issue() -> None:
        nonlocal num_issued
        while num_issued < NUM and issued_s[num_issued] <= now_s:
            prompt = [answer_lens[num_issued], *[7] * (prompt_lens[num_issued] - 2), 9]
            submit(engine, {num_issued: Ask(prompt)})
            num_issued += 1

    async def wait(step_s: float) -> None:
        nonlocal now_s
        now_s += step_s
        issue()

    config = SimulatedConfig(
        max_num_seqs=LIMITS.max_num_seqs,
        max_num_batched_tokens=LIMITS.max_num_batched_tokens,
        costs=COSTS,
    )
    engine = SimulatedEngine(config, wait)
    first_s, done_s = np.zeros(NUM), np.zeros(NUM)
    left = set(range(NUM))
    while left:
        if not any(engine.load()[:2]):
            now_s = max(now_s, issued_s[num_issued])
        issue()
        columns = (await engine.step()).columns
        requests = columns.requests.tolist()
        for request in requests:
            first_s[request] = first_s[request] or now_s
        ended = [requests[row] for row in columns.finished_rows.tolist()]
        done_s[ended] = now_s
        left -= set(ended)
    return first_s, done_s


def test_searches_end_within_two_percent_of_the_limit_of_their_schedule() -> None:
    """Three seeds, a minute each: the rate found is VALID at full length, at most 2 % below the highest.

    `python -m bench.find_qps` does the same with 200 seeds.
    """
    load, full, short = make_load(), run_length(60.0), run_length(20.0, block=1)
    for seed in range(3):
        tests = VirtualTests(load, full, short, seed)
        found = tests.search(RateSearch(20.0, 60.0, 8))
        assert StepKind.FOUND == found.end.kind
        assert len(found.points) <= 8
        limit = bisect_rate(lambda qps: tests.run(qps, RunLengthKind.FULL).is_valid, 25.0, 45.0)  # noqa: B023
        assert 0.98 <= found.end.target_qps / limit <= 1.002
        (confirmed,) = [point for point in found.points if point.target_qps == found.end.target_qps]
        assert (RunLengthKind.FULL, True) == (confirmed.kind, confirmed.is_valid)
