"""`python -m bench.fleet burst`: a whole Offline run issued in one call, and the memory that it takes."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.command import check_above, check_ascending, check_at_least, check_workers
from bench.fleet.fleet_run import Costs, Goal, Left, Shown, Work, common_goals, run
from bench.processes import Processes
from bench.workload import draw_prompts
from common.flags import FlagError
from sut.loadgen import TOKEN_BYTES
from sut.settings import Mode, Scenario

MAX_ISSUE_S = 1.0
MAX_RSS_GIB = 4.0
QUICK: dict[str, object] = {
    "workers": 8,
    "requests": 6_600,
    "max_num_seqs": 100,
    "answer_tokens": (16, 48),
    "prompt_tokens": 32,
    "min_in_flight": 800,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """Flags of the part."""

    workers: int = 72
    """Number of simulated engines, 1..1000."""
    requests: int = 541_200
    """Samples of the single Offline query, 1 or more."""
    max_num_seqs: int = 834
    """Concurrent requests per worker, 1 or more."""
    answer_tokens: tuple[int, int] = (128, 256)
    """Shortest and longest answer in tokens, 2 or more."""
    prompt_tokens: int = 256
    """Length of each prompt in tokens, 2 or more."""
    samples: int = 6_600
    """Prompts of the data set, 1 or more."""
    step_base_ms: float = 27.1
    """Fixed time of a step in ms, 0 or more."""
    step_per_seq_us: float = 25.0
    """Additional time of a step per running request in us, 0 or more."""
    prefill_tokens_per_s: float = 58_600.0
    """Prompt tokens per second that a step prefills, above 0."""
    max_new_tokens: int = Mode.PERFORMANCE.max_new_tokens.value
    """Answer budget in tokens, 2 or more; each slot of the arena has room for it."""
    min_in_flight: int = 60_000
    """Goal: fewest requests in flight at their peak, 0 or more."""
    timeout_s: float = 900.0
    """Time limit of the coordinator's run in s, above 0."""

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        check_workers("workers", self.workers)
        check_at_least(self, requests=1, max_num_seqs=1, prompt_tokens=2, samples=1)
        check_at_least(self, max_new_tokens=2, min_in_flight=0, step_base_ms=0, step_per_seq_us=0)
        check_above(self, "prefill_tokens_per_s", "timeout_s")
        check_ascending(self, "answer_tokens", self.max_new_tokens)
        slots, memory_bytes = self.workers * self.max_num_seqs, _memory_bytes()
        arena_bytes = slots * self.max_new_tokens * TOKEN_BYTES
        if arena_bytes > memory_bytes:
            raise FlagError(
                "--max-num-seqs",
                f"{self.max_num_seqs} at {self.workers} workers are {slots} slots of "
                f"{self.max_new_tokens} tokens, {arena_bytes} bytes, above this machine's {memory_bytes}",
            )


def show(plan: Burst, processes: Processes, directory: Path) -> Shown:
    """Run the part and judge its goals.

    Raises:
        RuntimeError: The run failed.
    """
    work = Work(
        scenario=Scenario.OFFLINE,
        workers=plan.workers,
        costs=Costs(
            step_base_ms=plan.step_base_ms,
            step_per_seq_us=plan.step_per_seq_us,
            prefill_tokens_per_s=plan.prefill_tokens_per_s,
        ),
        prompts=draw_prompts(plan.samples, plan.prompt_tokens, *plan.answer_tokens),
        max_new_tokens=plan.max_new_tokens,
        conf={"target_qps": 1_000.0, "min_query_count": plan.requests},
        timeout_s=plan.timeout_s,
        fleet_flags=("--max-num-seqs", str(plan.max_num_seqs)),
    )
    left = run(work, processes, directory)
    figures = _figures(plan, left)
    goals = [
        Goal.at_least("accepted", left.checked.requests, plan.requests, "requests in one call"),
        Goal.at_most("issue call", figures["LoadGen's issue call in all, at most, s"], MAX_ISSUE_S, "s"),
        Goal.at_least("in flight", figures["in flight, most"], plan.min_in_flight, "at once"),
        Goal.at_most("memory", figures["RSS, highest, MiB"] / 1024, MAX_RSS_GIB, "GiB, highest RSS"),
        Goal.at_most(
            "memory, filled",
            figures["RSS with every answer in flight of full length, MiB"] / 1024,
            MAX_RSS_GIB,
            "GiB, computed with every used slot filled to the budget",
        ),
        *common_goals(left.exchange),
    ]
    return Shown(figures | left.common_figures(), goals)


def _figures(plan: Burst, left: Left) -> dict[str, Any]:
    notes, memory = left.notes, left.notes.memory
    (called_ns, returned_ns, num_samples) = notes.calls[0].tolist()
    in_flight = notes.samples[:, 2]
    most = int(in_flight.max())
    full = notes.samples[in_flight >= plan.min_in_flight, 0]
    # LoadGen's latencies count from its start of the call, the coordinator's from the call in Python.
    before_ns = (
        float(str(left.detail.values["result_min_latency_ns"]))
        - 1e6 * left.spread_ms("latency_ns")["minimum"]
    )
    filled = memory["peak_rss"] - memory["arena_resident"] + most * plan.max_new_tokens * TOKEN_BYTES
    return {
        "samples in the first call": num_samples,
        "IssueQuery took, s": (returned_ns - called_ns) / 1e9,
        "LoadGen's issue call in all, at most, s": (before_ns + returned_ns - called_ns) / 1e9,
        "first dispatch after the call, s": left.spread_ms("queued_ns")["minimum"] / 1e3,
        "workers full after the call, s": (int(full[0]) - called_ns) / 1e9 if len(full) else None,
        "last dispatch after the call, s": left.spread_ms("queued_ns")["maximum"] / 1e3,
        "end after the call, s": left.spread_ms("latency_ns")["maximum"] / 1e3,
        "in flight, most": most,
        "waiting, most": int(notes.samples[:, 3].max()),
        "RSS, highest, MiB": memory["peak_rss"] / 2**20,
        "of it, MiB": _parts_mib(left),
        "LoadGen before its call, bytes a sample": _grown(left, "LoadGen's queries") / num_samples,
        "arena reserved, MiB": memory["arena_reserved"] / 2**20,
        "slots used, at most": most,
        "RSS with every answer in flight of full length, MiB": filled / 2**20,
    }


def _parts_mib(left: Left) -> dict[str, float]:
    """Divide the highest RSS, in MiB, into the growth in each start-up stage, the arena, and the rest."""
    memory = left.notes.memory
    parts = {stage: _grown(left, stage) for stage in left.notes.stages}
    parts["arena"] = memory["arena_resident"]
    parts["backlog, frames, records, LoadGen's results"] = memory["peak_rss"] - sum(parts.values())
    return {name: size / 2**20 for name, size in parts.items()}


def _grown(left: Left, stage: str) -> int:
    """Return the RSS growth in a start-up stage in bytes; the first stage is the interpreter itself."""
    names = list(left.notes.stages)
    before = names.index(stage) - 1
    return left.notes.stages[stage] - (left.notes.stages[names[before]] if before >= 0 else 0)


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
