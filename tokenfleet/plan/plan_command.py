"""Implements `tokenfleet plan`: how many workers, requests/s and tokens/s this coordinator can carry.

Exit codes: 0 measured, 1 the benchmark failed, 2 bad input, 128 plus the signal's number if interrupted.
"""

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from common.atomic_files import replace_files
from common.command_exit import FAILED, end_command, run_command
from common.flags import Flag, FlagError, Flags, Parser, add_flags, build
from common.named_refusals import naming_output
from common.signals import CLEAN_UP_S, Interrupts
from common.text import print_table
from coordinator.doctor.capacity import PUBLISHED, WARN_CORES, CoordinatorCosts, CoordinatorLoad
from sut.benchmark import BENCHMARK
from sut.settings import Scenario
from tokenfleet.plan.carried_load import CarriedLoad, carried_load
from tokenfleet.plan.self_benchmark import BenchmarkFailed, MeasuredHost, measure_host


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig(Flags):
    """The planned run."""

    scenario: Annotated[Scenario, Flag("scenario of the planned run")] = Scenario.SERVER
    num_workers: Annotated[int, Flag("workers of the planned run", ge=1, le=10_000)] = 8
    target_qps: Annotated[
        float | None, Flag("planned requests/s; Offline: samples/s", gt=0, metavar="QPS")
    ] = None
    answer_len: Annotated[float, Flag("mean length of the answers, in tokens", ge=1, metavar="TOKENS")] = (
        BENCHMARK.mean_answer_len
    )
    step_ms: Annotated[
        float | None,
        Flag("mean time of an engine step under load, in ms: at most one frame a step", gt=0, metavar="MS"),
    ] = None
    json: Annotated[Path | None, Flag("file for all figures, JSON; must not exist", metavar="FILE")] = None

    @property
    def load(self) -> CoordinatorLoad:
        """The planned load; a rate of 0 if none is planned."""
        steps_per_s = math.inf if self.step_ms is None else 1e3 / self.step_ms
        return CoordinatorLoad(self.target_qps or 0.0, self.num_workers, self.answer_len, steps_per_s)

    def _check_together(self) -> None:
        if self.json is not None and self.json.exists():
            raise FlagError("--json", "exists, and is not overwritten", self.json)
        if self.json is not None and not self.json.parent.is_dir():
            raise FlagError("--json", f"{self.json.parent} is not a directory", self.json)


def parse(argv: list[str]) -> PlanConfig:
    """Read the command line.

    Raises:
        ValueError: Names flag, value and bound.
    """
    parser = Parser(
        allow_abbrev=False,
        description="Measure this host for some seconds without GPUs; tell what its coordinator carries.",
    )
    add_flags(parser, PlanConfig)
    return build(PlanConfig, parser.parse_args(argv))


def main(argv: list[str]) -> int:
    """Measure, print and write; return the exit code."""
    return run_command("plan", _plan, argv)


def _plan(argv: list[str]) -> int:
    Interrupts(patience_s=CLEAN_UP_S)
    config = parse(argv)
    sys.stderr.write("plan: measuring this host with four short runs\n")
    try:
        measured = measure_host()
    except BenchmarkFailed as error:
        return end_command("plan", error, FAILED)
    carried = carried_load(measured.costs(config.scenario), config.load, measured.quota_cores)
    if config.json is not None:
        _write(config.json, config, measured, carried)
    print_table(format_plan(config, measured, carried))
    return 0


def format_plan(config: PlanConfig, measured: MeasuredHost, carried: CarriedLoad) -> str:
    """Return the table."""
    load = config.load
    workers = f"{config.num_workers} workers"
    lines = [
        f"== plan, {config.scenario}, {workers}, answers of {config.answer_len:g} tokens ==",
        f"   CPU of this host     {_costs(measured.costs(config.scenario))}",
        f"   published CPU        {_costs(PUBLISHED)}",
    ]
    if config.target_qps is not None:
        lines.append(
            f"   planned              {load.queries_per_s:g} requests/s, {load.tokens_per_s:,.0f} tokens/s, "
            f"{load.frames_per_s:,.0f} frames/s: {carried.cores:.2f} core, "
            f"{carried.share:.0%} of what it carries"
        )
    rates = f"{carried.max_queries_per_s:,.0f} requests/s, {carried.max_tokens_per_s:,.0f} tokens/s"
    if not carried.max_queries_per_s:
        rates = f"no request: the workers' frames alone take more than {carried.limit_cores:g} core"
    lines.append(f"   carries              {rates} with {workers}")
    at = f"at {load.queries_per_s:g} requests/s" if config.target_qps is not None else "without requests"
    lines.append(f"                        {carried.max_workers:,} workers {at}")
    lines += [
        f"   A coordinator carries {carried.limit_cores:g} core; above that its latency grows.",
        *_error(measured),
    ]
    if carried.limit_cores < WARN_CORES:
        lines.append("   The limit is that of a CPU quota of less than one core (a container's CPU limit).")
    if config.step_ms is None:
        lines.append("   The number of frames is an upper bound: with --step-ms it is at most one per step.")
    return "\n".join(lines)


def _error(measured: MeasuredHost) -> list[str]:
    """Say how well the costs are known."""
    if measured.is_busy:
        return [
            f"   Other processes used this host: {measured.load_per_core:.1f} on each core on average.",
            "   The error of the costs is not known: measure again when the host is idle.",
        ]
    return ["   The costs are known to about 20 %, without TLS, beside two workers on this host."]


def _costs(costs: CoordinatorCosts) -> str:
    return (
        f"{costs.idle:.3f} core at rest, {costs.query * 1e6:,.0f} us a request, "
        f"{costs.frame * 1e6:,.0f} us a frame, {costs.token * 1e9:,.0f} us for 1,000 tokens"
    )


def _write(path: Path, config: PlanConfig, measured: MeasuredHost, carried: CarriedLoad) -> None:
    document = {
        "format": 1,
        "scenario": config.scenario,
        "num_workers": config.num_workers,
        "target_qps": config.target_qps,
        "answer_len": config.answer_len,
        "step_ms": config.step_ms,
        "costs": measured.costs(config.scenario)._asdict(),
        "published_costs": PUBLISHED._asdict(),
        "carried": carried._asdict(),
        "cpu_quota_cores": measured.quota_cores,
        "load_per_core": measured.load_per_core,
        "runs": {name: run._asdict() for name, run in measured.runs.items()},
    }
    with naming_output("--json", path):
        replace_files(path.parent, {path.name: json.dumps(document, indent=1) + "\n"})
