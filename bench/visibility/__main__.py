"""`python -m bench.visibility`: what live view, request records and metrics cost a run.

Pairs of Server runs over a simulated fleet. One run of a pair is watched: live view on a terminal, metrics of
the coordinator scraped once a second. The other has neither. With --old DIR it runs in another checkout, one
without request records and timeline; without it both runs record. The run that goes first alternates.

The TTFT of a pair counts only if the host of a virtual machine took next to no time of its cores: 1 % of the
requests decide about the 99th percentile.
"""

import contextlib
import math
import random
import tempfile
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.command import (
    check_above,
    check_at_least,
    check_workers,
    describe_commit,
    describe_machine,
    parse_comparison,
    run_command,
    say,
    write_record,
)
from bench.flag_help import FlagFormatter
from bench.fleet.fleet_run import NO_LIMIT_MS, READY_TIMEOUT_S, Goal
from bench.intervals import mean_interval
from bench.processes import (
    THIS_CHECKOUT,
    Checkout,
    Processes,
    argv_of,
    split_cores,
    started_on,
    wait_says,
)
from bench.runs import loadgen_window_s, read_run
from bench.visibility.stolen_time import StolenTime
from bench.workload import compose_user_conf, draw_prompts, write_prompts
from common.flags import FlagError, Parser
from sut.settings import Scenario
from worker.node.ports import steady_port

ROUNDS = 10
MAX_CPU_RATIO = 1.02
MAX_TTFT_DIFFERENCE_MS = 0.5
MAX_STOLEN_SHARE = 0.002
"""Of the cores' time during a run, a fifth of what the 99th percentile leaves out."""
SCRAPE_INTERVAL_S = 1.0
SCRAPE_TIMEOUT_S = 5.0
TTFT_KEYS = {
    "p50": "result_first_token_50.00_percentile_latency_ns",
    "p99": "result_first_token_99.00_percentile_latency_ns",
}
QUICK: dict[str, object] = {"rounds": 2, "workers": 4, "queries_per_s": 100.0, "queries": 300}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Flags of the command."""

    rounds: int
    old: Checkout | None
    workers: int
    queries_per_s: float
    queries: int
    step_ms: float

    def __post_init__(self) -> None:
        """Check the bounds; FlagError names flag, value and bound."""
        check_workers("workers", self.workers)
        check_at_least(self, queries=1, step_ms=0)
        check_above(self, "queries_per_s")


class Figures(NamedTuple):
    """Figures of one run."""

    us_per_query: float
    """CPU time of the coordinator's process during LoadGen's test, per query."""
    ttft_p50_ms: float
    """By LoadGen."""
    ttft_p99_ms: float
    scrapes: int
    """Scrapes that were answered."""
    drawn_kib: int
    """What the live view has written to the terminal."""
    stolen_share: float = 0.0
    """Of the cores' time, taken by the host of this virtual machine while the coordinator ran.

    Files from before this figure was recorded do not have it; their pairs count.
    """

    @property
    def is_undisturbed(self) -> bool:
        """Whether the TTFT counts."""
        return self.stolen_share <= MAX_STOLEN_SHARE

    def line(self, name: str) -> str:
        """Format as a table row."""
        return f"{name:<14}{self.us_per_query:>12.1f}{self.ttft_p50_ms:>12.3f}{self.ttft_p99_ms:>12.3f}" + (
            f"{self.scrapes:>10}{self.drawn_kib:>12}{self.stolen_share:>11.2%}"
        )


CPU_RATIO = "CPU, watched / plain"
TTFT_P50 = "TTFT p50, watched - plain, ms"
TTFT_P99 = "TTFT p99, watched - plain, ms"
"""Names of what is compared."""
HEADING = (
    f"{'':<14}{'us/query':>12}{'TTFT p50':>12}{'p99, ms':>12}{'scrapes':>10}{'drawn, KiB':>12}{'stolen':>11}"
)


class Scraper:
    """Scrapes a port once a second within a `with` block and counts the answers."""

    def __init__(self, port: int) -> None:
        self.num = 0
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Scraper":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(SCRAPE_TIMEOUT_S + SCRAPE_INTERVAL_S)

    def _run(self) -> None:
        while not self._ended.wait(SCRAPE_INTERVAL_S):
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(self._url, timeout=SCRAPE_TIMEOUT_S) as answer,
            ):
                self.num += len(answer.read()) > 0


def main(argv: list[str]) -> int:
    """Run all pairs. Return 0: goals met, 1: one was missed or a run failed, 2: bad input."""
    try:
        plan, output = _parse(argv)
    except ValueError as error:
        say(f"bench.visibility: {error}")
        return 2
    machine = {**describe_machine(), "commit": describe_commit()}
    say(f"{'flags':<14}{plan}\n\n{HEADING}")
    try:
        with tempfile.TemporaryDirectory(prefix="bench-visibility-") as name, Processes() as processes:
            pairs = [_run_pair(plan, number, processes, Path(name)) for number in range(plan.rounds)]
    except RuntimeError as error:
        say(f"bench.visibility: {error}")
        return 1
    compared = compare(pairs)
    goals = judge(compared)
    say("\n" + describe(compared, goals))
    record: dict[str, object] = {
        "machine": machine,
        "command": ["bench.visibility", *argv],
        "pairs": [{"watched": watched._asdict(), "plain": plain._asdict()} for watched, plain in pairs],
        "mean and 95 % interval": compared,
        "goals": [goal._asdict() for goal in goals],
    }
    write_record(output, record)
    return 0 if all(goal.met for goal in goals) else 1


def compare(pairs: list[tuple[Figures, Figures]]) -> dict[str, tuple[float, float, float]]:
    """Return mean and 95 % interval over the pairs of CPU watched / plain, and of the TTFT's difference.

    The TTFT is that of undisturbed pairs, and absent if there are fewer than two.
    """
    ratios = mean_interval([math.log(watched.us_per_query / plain.us_per_query) for watched, plain in pairs])
    found = {CPU_RATIO: (math.exp(ratios[0]), math.exp(ratios[1]), math.exp(ratios[2]))}
    calm = [(watched, plain) for watched, plain in pairs if watched.is_undisturbed and plain.is_undisturbed]
    if len(calm) > 1:
        found[TTFT_P50] = mean_interval([watched.ttft_p50_ms - plain.ttft_p50_ms for watched, plain in calm])
        found[TTFT_P99] = mean_interval([watched.ttft_p99_ms - plain.ttft_p99_ms for watched, plain in calm])
    return found


def judge(compared: dict[str, tuple[float, float, float]]) -> list[Goal]:
    """Judge the upper ends of the intervals."""
    name = "TTFT p99"
    if TTFT_P99 in compared:
        ttft = Goal.at_most(
            name, compared[TTFT_P99][2], MAX_TTFT_DIFFERENCE_MS, "ms, upper end of the interval"
        )
    else:
        ttft = Goal(name, met=False, seen="fewer than two undisturbed pairs")
    cpu_ratio = compared[CPU_RATIO][2]
    return [
        Goal.at_most("CPU of the coordinator", cpu_ratio, MAX_CPU_RATIO, "upper end of the interval"),
        ttft,
    ]


def describe(compared: dict[str, tuple[float, float, float]], goals: list[Goal]) -> str:
    """Format what `compare` and `judge` return."""
    lines = [
        f"{name}: {mean:.4f}, 95 % interval {low:.4f} to {high:.4f}"
        for name, (mean, low, high) in compared.items()
    ]
    verdicts = [f"{'met    ' if goal.met else 'NOT MET'} {goal.name:<24}{goal.seen}" for goal in goals]
    return "\n".join([*lines, "", *verdicts])


def _parse(argv: list[str]) -> tuple[Plan, Path | None]:
    """Parse the command line.

    Raises:
        FlagError: Names flag, value and bound.
    """
    parser = Parser(
        formatter_class=FlagFormatter,
        prog="python -m bench.visibility",
        allow_abbrev=False,
        description=__doc__,
    )
    parser.add_argument(
        "--old", type=Path, metavar="DIR", help="checkout of the plain runs (default this one)"
    )
    parser.add_argument("--workers", type=int, default=8, help="number of simulated engines")
    parser.add_argument("--queries-per-s", type=float, default=400.0, help="LoadGen's target_qps")
    parser.add_argument(
        "--queries", type=int, default=10_000, help="queries of each run; LoadGen may issue more"
    )
    parser.add_argument("--step-ms", type=float, default=5.0, help="time of an engine step, in ms")
    args = parse_comparison(parser, argv, ROUNDS, QUICK)
    if args.rounds < 2:
        raise FlagError("--rounds", f"{args.rounds} is below 2: no interval")
    old = None
    if args.old is not None:
        if not (args.old / "bench").is_dir():
            raise FlagError("--old", f"{args.old} has no folder bench")
        # Do not resolve: the interpreter of a virtual environment is a symbolic link.
        old = Checkout(args.old.resolve(), str((args.old / ".venv/bin/python").absolute()))
    plan = Plan(
        rounds=args.rounds,
        old=old,
        workers=args.workers,
        queries_per_s=args.queries_per_s,
        queries=args.queries,
        step_ms=args.step_ms,
    )
    return plan, args.output


def _run_pair(plan: Plan, number: int, processes: Processes, directory: Path) -> tuple[Figures, Figures]:
    found: dict[bool, Figures] = {}
    for is_watched in (True, False) if number % 2 else (False, True):
        name = "watched" if is_watched else "plain"
        own = directory / f"{number}-{name}"
        own.mkdir()
        found[is_watched] = _run(plan, processes, own, is_watched=is_watched)
        say(found[is_watched].line(f"{number} {name}"))
    return found[True], found[False]


def _run(plan: Plan, processes: Processes, directory: Path, *, is_watched: bool) -> Figures:
    """Run once over a fleet of its own.

    Raises:
        RuntimeError: The fleet or the coordinator failed.
    """
    checkout = THIS_CHECKOUT if is_watched or plan.old is None else plan.old
    fleet_cores, coordinator_cores = split_cores()
    prompts = draw_prompts(640, 64, 20, 60)
    log, drawn = directory / "coordinator.log", directory / "drawn.log"
    metrics_port = steady_port(random.Random(), 1 + plan.workers)
    with started_on(fleet_cores):
        addresses = _start_fleet(plan, processes, directory, checkout, metrics_port + 1)
    argv = _coordinator_flags(plan, addresses, prompts, directory)
    watching: contextlib.AbstractContextManager[Scraper | None] = contextlib.nullcontext()
    if is_watched:
        argv = ["bench.visibility.on_terminal", str(drawn), *argv]
        argv += ["--no-report", "--metrics-port", str(metrics_port)]
        watching = Scraper(metrics_port)
    else:
        argv = ["coordinator", *argv, *(["--no-report"] if plan.old is None else [])]
    timeout_s = 60.0 + 3.0 * plan.queries / plan.queries_per_s
    stolen = StolenTime()
    with watching as scraper, started_on(coordinator_cores):
        ended = processes.run(argv, log, timeout_s, checkout=checkout)
    stolen_share = stolen.share()
    _, detail = read_run("the coordinator", ended, log, directory / "out" / "server" / "performance")
    begin_s, end_s = loadgen_window_s(detail)
    scrapes, drawn_kib = (0, 0) if scraper is None else (scraper.num, drawn.stat().st_size >> 10)
    if is_watched and not (scrapes and drawn_kib):
        raise RuntimeError(f"a watched run had {scrapes} scrapes and {drawn_kib} KiB drawn: see {log}")
    ttft_ms = {mark: float(str(detail.values[key])) / 1e6 for mark, key in TTFT_KEYS.items()}
    return Figures(
        us_per_query=1e6 * ended.curve.between(begin_s, end_s) / _num_queries(detail.values),
        ttft_p50_ms=ttft_ms["p50"],
        ttft_p99_ms=ttft_ms["p99"],
        scrapes=scrapes,
        drawn_kib=drawn_kib,
        stolen_share=stolen_share,
    )


def _num_queries(values: dict[str, Any]) -> int:
    return int(values["generated_query_count"])


def _start_fleet(plan: Plan, processes: Processes, directory: Path, checkout: Checkout, port: int) -> str:
    """Start the workers, the first at this port; returns their addresses."""
    flags = {
        "--workers": plan.workers,
        "--port-base": port,
        "--step-base-ms": plan.step_ms,
        "--step-per-seq-us": 4.0,
        "--prefill-tokens-per-s": 1e6,
    }
    fleet_log = directory / "fleet.log"
    fleet = processes.start(["bench.fleet.simulated", *argv_of(flags)], fleet_log, checkout=checkout)
    wait_says(fleet, fleet_log, "ready\n", READY_TIMEOUT_S, "the simulated fleet is not ready")
    return ",".join(f"127.0.0.1:{port + index}" for index in range(plan.workers))


def _coordinator_flags(plan: Plan, addresses: str, prompts: NDArray[np.int32], directory: Path) -> list[str]:
    conf = {
        "performance_sample_count_override": len(prompts),
        "min_duration": 1,
        "ttft_latency": NO_LIMIT_MS,
        "tpot_latency": NO_LIMIT_MS,
        "target_qps": plan.queries_per_s,
        "min_query_count": plan.queries,
    }
    user_conf = directory / "user.conf"
    user_conf.write_text(compose_user_conf([Scenario.SERVER], conf), "utf-8")
    flags = {
        "--scenario": "server",
        "--input-file": str(write_prompts(directory / "data.parquet", prompts)),
        "--user-conf": str(user_conf),
        "--workers": addresses,
        "--output-dir": str(directory / "out"),
        "--max-new-tokens": 128,
    }
    return argv_of(flags)


if __name__ == "__main__":
    run_command(main)
