"""`python -m bench.fleet server`: a high query rate over engines that answer immediately."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.command import check_above, check_ascending, check_at_least, check_workers
from bench.fleet.fleet_run import Costs, FloorWork, Goal, Left, Shown, Work, common_goals, run
from bench.processes import Processes
from bench.workload import draw_prompts
from common.flags import FlagError
from sut.results.timing.spread import percentile
from sut.settings import Scenario

MAX_TTFT_MS = 5.0
MAX_ISSUE_DELAY_MS = 5.0
PERCENTILES = (0.5, 0.9, 0.99, 0.999)
# Prefill takes no time.
PREFILL_TOKENS_PER_S = 1e9
QUICK: dict[str, object] = {"workers": 8, "queries_per_s": 500.0, "queries": 2_560}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fast:
    """Flags of the part."""

    workers: int = 72
    """Number of simulated engines, 1..1000."""
    queries_per_s: float = 2_000.0
    """LoadGen's target_qps, above 0."""
    queries: int = 64_000
    """Number of queries, 1 or more; LoadGen rounds up to a whole number of data sets."""
    answer_tokens: tuple[int, int] = (2, 4)
    """Shortest and longest answer in tokens, 2 or more."""
    frames_per_query: int = 1
    """1: the whole answer in one frame; 2: the first token in one frame, the rest in another."""
    prompt_tokens: int = 128
    """Length of each prompt in tokens, 2 or more."""
    samples: int = 640
    """Prompts of the data set, 1 or more."""
    step_base_ms: float = 0.0
    """Time of a step in ms, 0 or more."""
    max_new_tokens: int = 1_024
    """Answer budget in tokens."""
    floor: bool = False
    """Measure the floor after the coordinator."""

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        check_workers("workers", self.workers)
        check_at_least(self, queries=1, prompt_tokens=2, samples=1, step_base_ms=0)
        check_above(self, "queries_per_s")
        check_ascending(self, "answer_tokens", self.max_new_tokens)
        if self.frames_per_query not in (1, 2):
            raise FlagError("--frames-per-query", f"{self.frames_per_query} is neither 1 nor 2")


def show(plan: Fast, processes: Processes, directory: Path) -> Shown:
    """Run the part and judge its goals.

    Raises:
        RuntimeError: The run failed, or LoadGen's schedule cannot be computed.
    """
    work = Work(
        scenario=Scenario.SERVER,
        workers=plan.workers,
        costs=Costs(
            step_base_ms=plan.step_base_ms, step_per_seq_us=0.0, prefill_tokens_per_s=PREFILL_TOKENS_PER_S
        ),
        prompts=draw_prompts(plan.samples, plan.prompt_tokens, *plan.answer_tokens),
        max_new_tokens=plan.max_new_tokens,
        conf={"target_qps": plan.queries_per_s, "min_query_count": plan.queries},
        fleet_flags=("--whole-answers",) if plan.frames_per_query == 1 else (),
        timeout_s=120.0 + 3.0 * (plan.queries + plan.samples) / plan.queries_per_s,
        floor=FloorWork(plan.queries, plan.queries_per_s) if plan.floor else None,
    )
    left = run(work, processes, directory)
    figures = _figures(left, plan.queries_per_s)
    goals = [
        Goal.at_most("TTFT", figures["TTFT by LoadGen, ms"]["p99"], MAX_TTFT_MS, "ms, p99"),
        Goal.at_most("issue delay", figures["issue delay, ms"]["p99"], MAX_ISSUE_DELAY_MS, "ms, p99"),
        *common_goals(left.exchange),
    ]
    return Shown(figures | left.common_figures(), goals)


def _figures(left: Left, target_qps: float) -> dict[str, Any]:
    calls = left.notes.calls
    seed = int(str(left.detail.values["effective_schedule_rng_seed"]))
    delays_ns = left.notes.issue_delays_ns(seed, target_qps)
    took_ns = calls[:, 1] - calls[:, 0]
    issuing_s = float(calls[-1, 0] - calls[0, 0]) / 1e9
    begin_s, end_s = left.window_s
    keys = {f"p{100 * q:g}": f"result_first_token_{100 * q:.2f}_percentile_latency_ns" for q in PERCENTILES}
    queries_per_s = (len(calls) - 1) / issuing_s
    cores = left.ended.curve.between(begin_s, end_s) / (end_s - begin_s)
    return {
        "queries/s": queries_per_s,
        "TTFT by LoadGen, ms": {
            mark: float(str(left.detail.values[key])) / 1e6 for mark, key in keys.items()
        },
        "TTFT by the coordinator, ms": left.spread_ms("ttft_ns"),
        "issue delay, ms": {
            **{f"p{100 * q:g}": percentile(delays_ns, q) / 1e6 for q in PERCENTILES},
            "maximum": int(delays_ns.max()) / 1e6,
        },
        "IssueQuery took, ms": {
            **{f"p{100 * q:g}": percentile(took_ns, q) / 1e6 for q in PERCENTILES},
            "maximum": int(took_ns.max()) / 1e6,
        },
        "queued, ms": left.spread_ms("queued_ns"),
        "coordinator, cores": cores,
        **left.floor_figures(cores, queries_per_s),
    }
