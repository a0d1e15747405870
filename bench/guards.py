"""`python -m bench.guards`: what it costs the coordinator that a run can neither hang nor lie.

See bench/README.md for what is measured and how to read it.
"""

import argparse
import dataclasses
import statistics
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.command import check_output, describe_machine, run_command, say, write_record
from bench.fleet import Round, Side
from bench.interleaved import interleave
from bench.ratios import CONFIDENCE, Ratio
from bench.unguarded import ALL, GUARDS
from bench.workload import Load, add_flags, load_of
from sut.settings import Scenario

BOUND = 0.02
"""Of the coordinator's CPU time: what the guards may cost in a run without faults."""
DEFAULT_ROUNDS = 15
QUICK = {"rounds": 1, "seconds": 1.0, "answer_tokens": 64}
GUARDED, AGAIN, BARE = "guarded", "again", "bare"
SCENARIOS = (Scenario.SERVER, Scenario.OFFLINE)
COLUMNS = {
    "coordinator_cpu_s_per_mtok": "s/Mtok",
    "coordinator_cpu_us_per_frame": "us/frame",
    "coordinator_cpu_ms_per_s": "ms/s",
    "frames": "frames",
    "tokens_per_s": "tokens/s",
}
NOTES = f"""\
s/Mtok, us/frame, CPU time of the coordinator process, LoadGen included, all threads, between LoadGen's
ms/s:             power_begin and power_end, per million tokens, per frame, and per second
costs:            what `{GUARDED}` takes more than this side, round by round, median; `median in` is the
                  interval that holds the median with the confidence given; {AGAIN}: the same as
                  `{GUARDED}`, so its figure is noise"""


class Shape(NamedTuple):
    """A load by name."""

    load: Load
    worker_flags: tuple[str, ...]


SHAPES = {
    "light": Shape(Load(), ()),
    # A frame every step and worker, as many requests in each as a large engine runs.
    "dense": Shape(Load(in_flight=512), ("--frame-hold-ms", "0")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One round of one side."""

    requests: int
    tokens: int
    answers_sha256: str
    frames: int
    """Token frames that the coordinator received."""
    window_s: float
    """From the first query's issue to the last completion, as LoadGen logs it."""
    coordinator_cpu_s: float
    """Of the whole process in that window."""
    coordinator_cpu_s_per_mtok: float
    coordinator_cpu_us_per_frame: float
    coordinator_cpu_ms_per_s: float
    workers_cpu_s_per_mtok: float
    tokens_per_s: float

    @classmethod
    def of(cls, run: Round) -> "Figures":
        """Take them from a run.

        Raises:
            RuntimeError: A worker was lost: the run was not free of faults.
        """
        summary, cpu_s = run.record["summary"], run.coordinator_cpu_s
        if summary["losses"]:
            raise RuntimeError(f"a worker was lost: {summary['losses'][0]}")
        num_frames = sum(worker["frames"] for worker in summary["workers"])
        return cls(
            requests=run.answers.requests,
            tokens=run.answers.tokens,
            answers_sha256=run.answers.sha256,
            frames=num_frames,
            window_s=run.window_s,
            coordinator_cpu_s=cpu_s,
            coordinator_cpu_s_per_mtok=run.per_mtok(cpu_s),
            coordinator_cpu_us_per_frame=cpu_s / num_frames * 1e6,
            coordinator_cpu_ms_per_s=cpu_s / run.window_s * 1e3,
            workers_cpu_s_per_mtok=run.per_mtok(run.workers_cpu_s),
            tokens_per_s=run.answers.tokens / run.window_s,
        )


Rounds = dict[str, list[Figures]]


class Case(NamedTuple):
    """A load under a scenario, and what all sides made of it."""

    name: str
    load: Load
    sides: tuple[Side, ...]
    rounds: Rounds

    def cost_of(self, name: str) -> Ratio:
        """Compare the guarded side with another one: what it takes of that one's CPU, 1 for as much."""
        tops, bottoms = (
            [figures.coordinator_cpu_s_per_mtok for figures in self.rounds[side]] for side in (GUARDED, name)
        )
        return Ratio.of(tops, bottoms)

    @property
    def cost_ms_per_s(self) -> float:
        """CPU time that all guards together take in a second, median of the rounds."""
        pairs = zip(self.rounds[GUARDED], self.rounds[BARE], strict=True)
        return statistics.median(a.coordinator_cpu_ms_per_s - b.coordinator_cpu_ms_per_s for a, b in pairs)

    def judgement(self) -> str:
        """Say in a line whether the guards cost less than the bound."""
        cost, noise = self.cost_of(BARE), self.cost_of(AGAIN)
        word = "not decided: more rounds, longer ones, or a quieter machine"
        if cost.confidence >= CONFIDENCE and cost.high - 1 < BOUND:
            word = "below"
        elif cost.confidence >= CONFIDENCE and cost.low - 1 > BOUND:
            word = "ABOVE"
        return (
            f"{self.name}: the guards cost {_percent(cost)} % {_interval(cost)} of the coordinator's CPU, "
            f"{self.cost_ms_per_s:+.2f} ms a second; {AGAIN} {_percent(noise)} % {_interval(noise)}; "
            f"confidence {cost.confidence:.3f}; bound {100 * BOUND:g} %: {word}"
        )


def main(argv: list[str]) -> int:
    """Measure, print, write; 0 done, 1 a side failed, 2 bad input."""
    try:
        args = _parse(argv)
        loads = {name: load_of(args, SHAPES[name].load) for name in args.loads}
        if args.rounds < 1:
            raise ValueError(f"--rounds: {args.rounds} is below 1")
        check_output(args.output)
    except ValueError as error:
        say(f"bench.guards: {error}")
        return 2
    machine = describe_machine()
    cases = []
    try:
        for name, load in loads.items():
            sides = sides_of(SHAPES[name].worker_flags, args.each)
            for scenario in args.scenarios:
                case = Case(f"{name} {scenario}", load, sides, {side.name: [] for side in sides})
                measure(case, scenario, args.rounds)
                say(table(case))
                cases.append(case)
    except RuntimeError as error:
        say(f"bench.guards: {error}")
        return 1
    say("\n".join(["", NOTES, "", *(case.judgement() for case in cases)]))
    write_record(args.output, compose_record(machine, cases))
    return 0


def sides_of(worker_flags: tuple[str, ...], each: bool) -> tuple[Side, ...]:
    """List the sides: with guards twice, without any, and with `each` without one at a time."""
    engine = ("--engine", "counting", *worker_flags)
    whole = (("worker", *engine), ("coordinator",))
    sides = [
        Side(GUARDED, "python -m coordinator, python -m worker", *whole),
        Side(AGAIN, "the same once more, on other workers", *whole),
    ]
    names = {BARE: (ALL, "without any guard")}
    if each:
        names |= {f"without {name}": (name, f"without: {guard.what}") for name, guard in GUARDS.items()}
    for shown, (name, what) in names.items():
        serve, drive = (("bench.unguarded", role, name) for role in ("worker", "coordinator"))
        sides.append(Side(shown, what, (*serve, *engine), drive))
    return tuple(sides)


def measure(case: Case, scenario: Scenario, num_rounds: int) -> None:
    """Fill a case's rounds.

    Raises:
        RuntimeError: A side failed, gave another answer than was asked for, or lost a worker.
    """

    def take(number: int, side: Side, run: Round) -> None:
        figures = Figures.of(run)
        case.rounds[side.name].append(figures)
        say(f"round {number + 1:<3} {_row(side.name, [figures])}")

    say("")
    interleave(case.sides, case.load, scenario, num_rounds, take)


def table(case: Case) -> str:
    """Lay a case out for a person."""
    head = f"{'':<18}" + "".join(f"{shown:>11}" for shown in COLUMNS.values())
    head += f"{'costs %':>10}{'median in':>17}"
    lines = ["", f"{case.name}: median of {len(case.rounds[GUARDED])} rounds", head]
    for side in case.sides:
        cost = case.cost_of(side.name)
        costs = "" if side.name == GUARDED else f"{_percent(cost):>10}{_interval(cost):>17}"
        lines.append(f"{_row(side.name, case.rounds[side.name])}{costs}")
    return "\n".join([*lines, "", *(f"{side.name:<18}{side.what}" for side in case.sides)])


def compose_record(machine: dict[str, str], cases: list[Case]) -> dict[str, object]:
    """Compose what --output gets: judgements, medians, ratios and every round's figures."""
    return {
        "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "cases": {
            case.name: {
                "load": dataclasses.asdict(case.load),
                "judgement": case.judgement(),
                "cost_ms_per_s": case.cost_ms_per_s,
                "sides": {side.name: _side_record(case, side) for side in case.sides},
            }
            for case in cases
        },
    }


def _side_record(case: Case, side: Side) -> dict[str, object]:
    rounds = case.rounds[side.name]
    return {
        "what": side.what,
        "serve": side.serve,
        "drive": side.drive,
        "guarded_to_this": case.cost_of(side.name)._asdict(),
        "rounds": [dataclasses.asdict(figures) for figures in rounds],
    }


def _row(name: str, rounds: list[Figures]) -> str:
    medians = (statistics.median(getattr(figures, key) for figures in rounds) for key in COLUMNS)
    return f"{name:<18}" + "".join(f"{median:>11,.2f}" for median in medians)


def _percent(ratio: Ratio) -> str:
    return f"{100 * (ratio.median - 1):+.2f}"


def _interval(ratio: Ratio) -> str:
    return f"[{100 * (ratio.low - 1):+.2f}, {100 * (ratio.high - 1):+.2f}]"


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.guards", allow_abbrev=False, description="Measure what the guards cost."
    )
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS)
    parser.add_argument("--loads", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--scenarios", nargs="+", type=Scenario, choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--each", action="store_true", help="also without each guard alone")
    add_flags(parser, None)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="gets the figures of every round")
    if "--quick" in argv:
        parser.set_defaults(**QUICK)
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_command(main)
