"""`python -m bench.fleet held`: requests in flight and tokens/s of a whole fleet, held for a minute."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.command import check_above, check_ascending, check_at_least, check_workers
from bench.fleet.fleet_run import Costs, FloorWork, Goal, Left, Shown, Work, common_goals, run
from bench.fleet.notes import Window
from bench.processes import Processes
from bench.workload import draw_prompts
from sut.settings import Scenario

MAX_CORES = 0.5
MAX_NUM_SEQS = 4_096
"""Slots of a worker; so many that no request waits for one."""
MAX_REPORT_DELAY_MS = 5.0
QUICK: dict[str, object] = {
    "workers": 8,
    "queries_per_s": 200.0,
    "answer_tokens": (100, 200),
    "prompt_tokens": 64,
    "samples": 256,
    "step_base_ms": 20.0,
    "ramp_s": 7.0,
    "hold_s": 6.0,
    # 200 * 150 tokens/s; 642 in flight by the formula in `Held`.
    "min_in_flight": 550,
    "min_tokens_per_s": 27_000.0,
    "min_held_s": 5.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Flags of the part, and the computation of the 60,000 requests in flight.

    A worker gets r = queries_per_s / workers prompts/s of P tokens, with answers of A tokens on average.
    With n running requests a step takes base + n * per_seq plus the prefill of new prompts; n = r * A * step:

        step = base / (1 - r * P / prefill_rate - r * A * per_seq)
             = 45 ms / (1 - 12.4 * 512 / 58,600 - 12.4 * 1,278 * 4 us) = 54 ms
        n = 12.4 * 1,278 * 54 ms = 860, 62,000 for 72 workers

    Because steps get longer as n grows, n converges slowly: by the same formula it reaches 60,000 after 82 s
    and 61,000 after `ramp_s`. It would take longer with a larger `step_per_seq_us`.
    """

    workers: int = 72
    """Number of simulated engines, 1..1000."""
    queries_per_s: float = 892.0
    """LoadGen's target_qps, above 0; the default is 1.14 million tokens/s."""
    answer_tokens: tuple[int, int] = (878, 1678)
    """Shortest and longest answer in tokens, 2 or more."""
    prompt_tokens: int = 512
    """Length of each prompt in tokens, 2 or more."""
    samples: int = 6396
    """Prompts of the data set, as many as in the official one; LoadGen issues each equally often."""
    step_base_ms: float = 45.0
    """Fixed time of a step in ms, 0 or more."""
    step_per_seq_us: float = 4.0
    """Additional time of a step per running request in us, 0 or more."""
    prefill_tokens_per_s: float = 58_600.0
    """Prompt tokens per second that a step prefills, above 0."""
    ramp_s: float = 95.0
    """Time before the window in s, in which the number of requests in flight becomes constant."""
    hold_s: float = 62.0
    """Length of the window in s, above 0; it ends when LoadGen issues its last query."""
    max_new_tokens: int = 1_700
    """Answer budget in tokens."""
    min_in_flight: int = 60_000
    """Goal: fewest requests at workers in each sample of the window."""
    min_tokens_per_s: float = 1.12e6
    """Goal: fewest tokens received per second of the window."""
    min_held_s: float = 60.0
    """Goal: shortest length of the window in s."""
    floor: bool = False
    """Measure the floor after the coordinator."""

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        check_workers("workers", self.workers)
        check_at_least(self, prompt_tokens=2, samples=1, max_new_tokens=2, min_in_flight=0)
        check_at_least(self, step_base_ms=0, step_per_seq_us=0)
        check_above(self, "queries_per_s", "prefill_tokens_per_s", "ramp_s", "hold_s")
        check_above(self, "min_tokens_per_s", "min_held_s")
        check_ascending(self, "answer_tokens", self.max_new_tokens)

    @property
    def num_queries(self) -> int:
        """Queries that LoadGen is configured for; it issues up to one data set more."""
        return round(self.queries_per_s * (self.ramp_s + self.hold_s))


def show(plan: Held, processes: Processes, directory: Path) -> Shown:
    """Run the part and judge its goals.

    Raises:
        RuntimeError: The run failed.
    """
    issuing_s = (plan.num_queries + plan.samples) / plan.queries_per_s
    work = Work(
        scenario=Scenario.SERVER,
        workers=plan.workers,
        costs=Costs(
            step_base_ms=plan.step_base_ms,
            step_per_seq_us=plan.step_per_seq_us,
            prefill_tokens_per_s=plan.prefill_tokens_per_s,
        ),
        prompts=draw_prompts(plan.samples, plan.prompt_tokens, *plan.answer_tokens),
        max_new_tokens=plan.max_new_tokens,
        conf={"target_qps": plan.queries_per_s, "min_query_count": plan.num_queries},
        timeout_s=120.0 + 3.0 * issuing_s,
        fleet_flags=("--max-num-seqs", str(MAX_NUM_SEQS)),
        floor=FloorWork(plan.num_queries, plan.queries_per_s, plan.hold_s) if plan.floor else None,
    )
    left = run(work, processes, directory)
    last_ns = int(left.notes.calls[-1, 0])
    window = Window(last_ns - int(plan.hold_s * 1e9), last_ns)
    figures = _figures(left, window, plan.queries_per_s)
    return Shown(figures | left.common_figures(), _goals(plan, left, figures))


def _figures(left: Left, window: Window, queries_per_s: float) -> dict[str, Any]:
    notes = left.notes
    samples = notes.within(window)
    in_flight = samples[:, 2]
    cores = left.cores(window)
    ended = (notes.samples[-1, 0] - notes.calls[0, 0]) / 1e9
    return {
        "from the first query to the window, s": (window.begin_ns - notes.calls[0, 0]) / 1e9,
        "window, s": window.length_s,
        "from the first query to the end, s": float(ended),
        "in flight, fewest": int(in_flight.min()) if len(in_flight) else 0,
        "in flight, mean": float(in_flight.mean()) if len(in_flight) else 0.0,
        "in flight, most": int(in_flight.max(initial=0)),
        "tokens/s": notes.tokens_per_s(window),
        "coordinator, cores": cores,
        **left.floor_figures(cores, queries_per_s),
        "samples": {
            "s": np.round((notes.samples[:, 0] - notes.calls[0, 0]) / 1e9, 2).tolist(),
            "tokens": notes.samples[:, 1].tolist(),
            "in flight": notes.samples[:, 2].tolist(),
            "rss_bytes": notes.samples[:, 4].tolist(),
        },
    }


def _goals(plan: Held, left: Left, figures: dict[str, Any]) -> list[Goal]:
    delay_ms = left.spread_ms("report_delay_ns")["p99"]
    return [
        Goal.at_least("held", figures["window, s"], plan.min_held_s, "s"),
        Goal.at_least("in flight", figures["in flight, fewest"], plan.min_in_flight, "in each sample"),
        Goal.at_least("tokens", figures["tokens/s"], plan.min_tokens_per_s, "tokens/s"),
        Goal.at_most("coordinator", figures["coordinator, cores"], MAX_CORES, "cores in the window"),
        Goal.at_most("report delay", delay_ms, MAX_REPORT_DELAY_MS, "ms, p99 of the whole run"),
        *common_goals(left.exchange),
    ]
