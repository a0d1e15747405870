"""`python -m bench.guards`: what it costs the coordinator that a run can neither hang nor lie.

See bench/README.md for what is measured and how to read it.
"""

import argparse
import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from bench.command import describe_machine, parse_comparison, run_command, say, write_record
from bench.interleaved import interleave
from bench.rounds import OUTPUT_DIR, Round, Side
from bench.unguarded import ALL, GUARDS, NONE
from bench.wakeups import wakeup_cost_ns
from bench.windows import BOUND, Cost, Pair, Window, steady_pairs
from bench.workload import Load, add_flags, load_of
from sut.settings import Scenario

DEFAULT_WINDOW_S = 0.2
QUICK: dict[str, object] = {"seconds": 2.0, "answer_tokens": 64, "window_s": 0.05}
TIMERS_PER_S = 2
"""The product's timers, which go on while the guards are off: the fleet's and the pulse's."""
SCENARIOS = (Scenario.SERVER, Scenario.OFFLINE)
WINDOWS_SUFFIX = ".windows.json"
NOTES = f"""\
off, on:  CPU time of the coordinator process, LoadGen included, all threads, in windows without and with
          this guard, mean over pairs of neighbouring windows of the same run
costs:    what on takes more than off in a frame, and its interval of 95 %
{NONE}:     nothing is switched, so its figure is noise"""


class Shape(NamedTuple):
    """A load by name."""

    load: Load
    worker_flags: tuple[str, ...]


SHAPES = {
    "light": Shape(Load(seconds=240.0), ()),
    # A frame every step and worker, as many requests in each as a large engine runs.
    "dense": Shape(Load(seconds=240.0, in_flight=512), ("--frame-hold-ms", "0")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One run of one side."""

    requests: int
    tokens: int
    answers_sha256: str
    verdict: str
    window_s: float
    """From the first query's issue to the last completion, as LoadGen logs it."""
    coordinator_cpu_s: float
    """Of the whole process in that window, guards on and off together."""
    windows: list[Window]
    """All, in order, those before and after the run's steady part included."""

    @classmethod
    def of(cls, run: Round) -> "Figures":
        """Take them from a run.

        Raises:
            RuntimeError: A worker was lost: the run was not free of faults.
        """
        losses = run.record["summary"]["losses"]
        if losses:
            raise RuntimeError(f"a worker was lost: {losses[0]}")
        rows = json.loads(run.output_dir.with_suffix(WINDOWS_SUFFIX).read_text(encoding="utf-8"))
        return cls(
            requests=run.answers.requests,
            tokens=run.answers.tokens,
            answers_sha256=run.answers.sha256,
            verdict=run.record["verdict"]["outcome"],
            window_s=run.window_s,
            coordinator_cpu_s=run.coordinator_cpu_s,
            windows=[Window(*row) for row in rows],
        )


class Case(NamedTuple):
    """A load under a scenario, and what all sides made of it."""

    name: str
    load: Load
    sides: tuple[Side, ...]
    rounds: dict[str, list[Figures]]

    def cost_of(self, name: str) -> Cost:
        """Estimate what a side's guards cost, from all its runs.

        Raises:
            RuntimeError: The runs are too short.
        """
        pairs: list[Pair] = [pair for figures in self.rounds[name] for pair in steady_pairs(figures.windows)]
        if len(pairs) < 2:
            raise RuntimeError(f"{self.name}: {name}: {len(pairs)} pairs of windows: give more --seconds")
        return Cost.of(pairs)

    def judgement(self, wakeup_ns: float) -> str:
        """Say in a line whether the guards and the timers that they need cost less than the bound."""
        cost, noise = self.cost_of(ALL), self.cost_of(NONE)
        timers_ms_per_s = TIMERS_PER_S * wakeup_ns / 1e6
        whole = cost.plus(timers_ms_per_s)
        return (
            f"{self.name}: the guards cost {_percent(cost)} and their timers "
            f"{100 * (whole.share - cost.share):.2f} % ({timers_ms_per_s:.2f} ms a second): "
            f"{_percent(whole)} of the coordinator's CPU; {NONE} {_percent(noise)}; "
            f"bound {100 * BOUND:g} %: {whole.judgement()}"
        )


def main(argv: list[str]) -> int:
    """Measure, print, write; 0 done, 1 a side failed, 2 bad input."""
    try:
        args = _parse(argv)
        loads = {name: load_of(args, SHAPES[name].load) for name in args.loads}
    except ValueError as error:
        say(f"bench.guards: {error}")
        return 2
    machine = describe_machine()
    cases = []
    try:
        for name, load in loads.items():
            sides = sides_of(SHAPES[name].worker_flags, args.window_s, args.each)
            for scenario in args.scenarios:
                case = Case(f"{name} {scenario}", load, sides, {side.name: [] for side in sides})
                measure(case, scenario, args.rounds)
                say(table(case))
                cases.append(case)
    except RuntimeError as error:
        say(f"bench.guards: {error}")
        return 1
    wakeup_ns = wakeup_cost_ns()
    say(f"\na wake-up takes {wakeup_ns / 1e3:.1f} us of CPU in a quiet event loop")
    say("\n".join(["", NOTES, "", *(case.judgement(wakeup_ns) for case in cases)]))
    write_record(args.output, compose_record(machine, wakeup_ns, cases))
    return 0


def sides_of(worker_flags: tuple[str, ...], window_s: float, each: bool) -> tuple[Side, ...]:
    """List the sides: all guards switched, none, and with `each` one at a time."""
    whats = {ALL: "all guards", NONE: "nothing switched"}
    if each:
        whats |= {name: guard.what for name, guard in GUARDS.items()}
    serve = ("bench.lenient_worker", "--engine", "counting", *worker_flags)
    drives = {
        name: ("bench.switched", name, f"{window_s:g}", f"{OUTPUT_DIR}{WINDOWS_SUFFIX}") for name in whats
    }
    return tuple(Side(name, what, serve, drives[name]) for name, what in whats.items())


def measure(case: Case, scenario: Scenario, num_rounds: int) -> None:
    """Fill a case's rounds.

    Raises:
        RuntimeError: A side failed, gave another answer than was asked for, lost a worker, or was too short.
    """

    def take(number: int, side: Side, run: Round) -> None:
        case.rounds[side.name].append(Figures.of(run))
        say(f"round {number + 1:<3} {_row(side.name, case.cost_of(side.name))}")

    say("")
    interleave(case.sides, case.load, scenario, num_rounds, take)


def table(case: Case) -> str:
    """Lay a case out for a person."""
    head = (
        f"{'':<10}{'pairs':>7}{'frames/s':>10}{'tokens/s':>10}"
        f"{'off us/frame':>14}{'on us/frame':>13}{'off ms/s':>10}{'on ms/s':>9}  costs"
    )
    lines = ["", f"{case.name}: {len(case.rounds[ALL])} runs of each", head]
    lines += [_row(side.name, case.cost_of(side.name)) for side in case.sides]
    return "\n".join([*lines, "", *(f"{side.name:<10}{side.what}" for side in case.sides)])


def compose_record(machine: dict[str, str], wakeup_ns: float, cases: list[Case]) -> dict[str, object]:
    """Compose what --output gets: judgements, costs and every window of every run."""
    return {
        "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "wakeup_ns": wakeup_ns,
        "timers_per_s": TIMERS_PER_S,
        "window_fields": Window._fields,
        "cases": {
            case.name: {
                "load": dataclasses.asdict(case.load),
                "judgement": case.judgement(wakeup_ns),
                "sides": {side.name: _side_record(case, side) for side in case.sides},
            }
            for case in cases
        },
    }


def _side_record(case: Case, side: Side) -> dict[str, object]:
    return {
        "what": side.what,
        "serve": side.serve,
        "drive": side.drive,
        "cost": case.cost_of(side.name)._asdict(),
        "rounds": [dataclasses.asdict(figures) for figures in case.rounds[side.name]],
    }


def _row(name: str, cost: Cost) -> str:
    return (
        f"{name:<10}{cost.num_pairs:>7}{cost.frames_per_s:>10,.1f}{cost.tokens_per_s:>10,.0f}"
        f"{cost.off_us_per_frame:>14.1f}{cost.on_us_per_frame:>13.1f}"
        f"{cost.off_ms_per_s:>10.2f}{cost.on_ms_per_s:>9.2f}  {_percent(cost)}"
    )


def _percent(cost: Cost) -> str:
    return f"{100 * cost.share:+.2f} % [{100 * cost.low:+.2f}, {100 * cost.high:+.2f}]"


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.guards", allow_abbrev=False, description="Measure what the guards cost."
    )
    parser.add_argument("--loads", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--scenarios", nargs="+", type=Scenario, choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--each", action="store_true", help="also each guard alone")
    parser.add_argument("--window-s", type=float, default=DEFAULT_WINDOW_S)
    add_flags(parser, None)
    args = parse_comparison(parser, argv, 1, QUICK)
    if not args.window_s > 0:
        raise ValueError(f"--window-s: {args.window_s:g} is not above 0")
    return args


if __name__ == "__main__":
    run_command(main)
