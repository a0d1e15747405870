"""`python -m bench.find_qps`: searches for the highest valid rate in virtual time, and the true limits."""

import argparse
import math
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from bench.command import check_output, describe_machine, run_command, say, write_record
from bench.find_qps.virtual_search import VirtualLoad, VirtualTests, bisect_rate
from bench.find_qps.virtual_server import EngineLimits, Floats, Lens, serve
from bench.flag_help import FlagFormatter
from bench.fleet.schedule import scheduled_ns
from sut.benchmark import BENCHMARK, V6_1
from sut.run_length import RunLength
from tokenfleet.find_qps.rate_search import RateSearch, RunLengthKind
from worker.engines.scripted.cost_model import CostModel

NUM_ROWS = 600
LOW_QPS, HIGH_QPS = 20.0, 60.0
COSTS = CostModel(prefill_tokens_per_s=20_000, step_base_ms=15, step_per_seq_us=500)
# Searches end at most this far from the limit of their own schedule, in at most as many runs.
MAX_ERROR, MAX_RUNS = 0.02, 8
MIN_SHARE = 0.95
# Draws of the samples at each rate of a bisection; with 2,400 queries a run and eight rates over a million.
NUM_DRAWS = 60


class SearchRow(TypedDict):
    """How one search ended."""

    seed: int
    end: str
    found_qps: float
    limit_qps: float
    """Highest rate at which a run of full length with the same schedule is VALID."""
    error: float | None
    num_runs: int
    runs: list[dict[str, object]]


def main(argv: list[str]) -> int:
    """Compute the limits and search with every seed; return 1 if the goals are missed, 2 for bad input."""
    args = _parser().parse_args(argv)
    try:
        check_output(args.output)
    except ValueError as error:
        print(f"bench.find_qps: {error}", file=sys.stderr)
        return 2
    machine = describe_machine()
    say("\nVirtual time: LoadGen's arithmetic and a simulated engine. No result of any engine.\n")
    load, full, short = make_load(), run_length(args.duration), run_length(args.duration / 3, block=1)
    limits = {
        "loadgens_schedule_qps": _limit_of_loadgens_schedule(load, full, args.draws),
        "random_arrivals_qps": _limit_of_random_arrivals(load, full, args.queries),
    }
    for name, qps in limits.items():
        say(f"{name}: {qps:.2f}")
    rows = [_search(load, full, short, seed) for seed in range(args.seeds)]
    flags = {name: str(value) for name, value in vars(args).items()}
    write_record(args.output, {"machine": machine, "flags": flags, "limits": limits, "searches": rows})
    return 0 if _meets_goals(rows) else 1


def _meets_goals(rows: Sequence[SearchRow]) -> bool:
    """Print how the searches ended; return whether the goals are met."""
    errors = [row["error"] for row in rows if row["error"] is not None]
    share = sum(abs(error) <= MAX_ERROR for error in errors) / max(len(rows), 1)
    runs = Counter(row["num_runs"] for row in rows)
    say(f"{len(rows)} searches, {len(errors)} ended with a VALID run; runs {dict(sorted(runs.items()))}")
    if errors:
        say(
            f"error against the limit of the same schedule: median {statistics.median(errors):+.2%}, "
            f"{min(errors):+.2%} to {max(errors):+.2%}, {share:.1%} within {MAX_ERROR:.0%}"
        )
    return share >= MIN_SHARE and max(runs, default=0) <= MAX_RUNS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        formatter_class=FlagFormatter, prog="python -m bench.find_qps", description=__doc__
    )
    parser.add_argument("--seeds", type=int, default=200, help="searches, each with another schedule")
    parser.add_argument("--duration", type=float, default=60.0, help="min_duration, in seconds")
    parser.add_argument("--draws", type=int, default=NUM_DRAWS, help="runs at a rate, LoadGen's schedule")
    parser.add_argument("--queries", type=int, default=1_000_000, help="queries at a rate, random arrivals")
    parser.add_argument("--output", type=Path, help="file for the figures, JSON")
    return parser


def make_load() -> VirtualLoad:
    """Return a load whose TPOT limit, the benchmark's of Server, is reached at about 34 queries/s."""
    rng = np.random.default_rng(5)
    return VirtualLoad(
        prompt_lens=rng.integers(20, 60, NUM_ROWS),
        answer_lens=rng.integers(20, 61, NUM_ROWS),
        costs=COSTS,
        ttft_limit_s=BENCHMARK.standard.ttft_ns.value / 1e9,
        tpot_limit_s=BENCHMARK.standard.tpot_ns.value / 1e9,
    )


def run_length(duration_s: float, block: int = NUM_ROWS) -> RunLength:
    """Return the length of a run over this load."""
    return RunLength(duration_s, 100 if block > 1 else 500, block, BENCHMARK.latency_percentile)


def _limit_of_loadgens_schedule(load: VirtualLoad, full: RunLength, num_draws: int) -> float:
    """Find the rate at which half of the runs with LoadGen's own schedule are VALID."""

    def is_valid(qps: float) -> bool:
        num, allowed = full.num_queries(qps), full.allowed(qps)
        issued_s = scheduled_ns(V6_1.seeds.schedule, qps, num) / 1e9
        rng = np.random.default_rng(7)
        draws = [_draw_blocks(rng, num) for _ in range(num_draws)]
        return statistics.median(_num_over(load, issued_s, samples) for samples in draws) <= allowed

    return bisect_rate(is_valid, LOW_QPS, HIGH_QPS)


def _limit_of_random_arrivals(load: VirtualLoad, full: RunLength, num: int) -> float:
    """Find the rate at which the share of queries over a limit is what a run of full length may have."""
    rng = np.random.default_rng(99)
    gaps, samples = rng.exponential(1.0, num), rng.integers(0, NUM_ROWS, num)

    def is_valid(qps: float) -> bool:
        share = full.allowed(qps) / full.num_queries(qps)
        return _num_over(load, np.cumsum(gaps) / qps, samples) <= share * num

    return bisect_rate(is_valid, LOW_QPS, HIGH_QPS)


def _draw_blocks(rng: np.random.Generator, num: int) -> Lens:
    return np.concatenate([rng.permutation(NUM_ROWS) for _ in range(num // NUM_ROWS)])


def _num_over(load: VirtualLoad, issued_s: Floats, samples: Lens) -> int:
    latencies = serve(
        issued_s, load.prompt_lens[samples], load.answer_lens[samples], load.costs, EngineLimits()
    )
    return max(int(over.sum()) for over in load.over(latencies))


def _search(load: VirtualLoad, full: RunLength, short: RunLength, seed: int) -> SearchRow:
    """Search once; the error is against the highest rate at which a run with this schedule is VALID."""
    tests = VirtualTests(load, full, short, seed)
    found = tests.search(RateSearch(LOW_QPS, HIGH_QPS, MAX_RUNS))
    limit = bisect_rate(lambda qps: tests.run(qps, RunLengthKind.FULL).is_valid, LOW_QPS, HIGH_QPS)
    error = found.end.target_qps / limit - 1 if found.end.kind == "found" else None
    return {
        "seed": seed,
        "end": str(found.end.kind),
        "found_qps": found.end.target_qps,
        "limit_qps": limit,
        "error": error,
        "num_runs": len(found.points),
        "runs": [
            {"qps": point.target_qps, "kind": str(point.kind), "ratio": math.exp(point.log_ratio)}
            for point in found.points
        ],
    }


if __name__ == "__main__":
    run_command(main)
