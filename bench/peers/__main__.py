"""`python -m bench.peers`: tokens/s that one coordinator core receives, all sides in the same run.

See bench/README.md for what is measured and how to read the output.
"""

import argparse
import dataclasses
import statistics
from datetime import UTC, datetime
from typing import NamedTuple

from bench.command import describe_machine, parse_comparison, run_command, say, write_record
from bench.flag_help import FlagFormatter
from bench.peers.burst_load import BurstLoad, add_flags
from bench.peers.flat_sides import GOALS, JUDGED, OURS, SIDES, FlatFigures, Goal
from bench.peers.side_fleet import Round, Side, run_rounds

DEFAULT_ROUNDS = 3
# One small round: a check that everything works, with rough figures. Short answers raise the cost per token.
QUICK: dict[str, object] = {"rounds": 1, "requests": 1024, "in_flight": 1024, "answer_tokens": 64}


class Column(NamedTuple):
    """Title and number format of a figure."""

    title: str
    form: str


COLUMNS = {
    "coordinator_cpu_s_per_mtok": Column("coord s/Mtok", ",.3f"),
    "mtok_per_core_s": Column("Mtok/core-s", ",.3f"),
    "workers_cpu_s_per_mtok": Column("workers s/Mtok", ",.3f"),
    "tokens_per_s": Column("tokens/s", ",.0f"),
    "tokens_per_message": Column("tokens/message", ",.1f"),
    "window_s": Column("window s", ",.2f"),
}
RATIOS = ("coordinator_cpu_s_per_mtok", "workers_cpu_s_per_mtok", "tokens_per_s")
NOTES = """\
coord:   CPU time of the coordinator process, LoadGen included, all threads; read from outside on every side,
         from LoadGen's power_begin to its power_end
workers: CPU time of all workers, from the coordinator's start to its end
Engine steps take no time: an engine waits only for its transport. Every answer of every round was compared
token by token."""
Rounds = dict[str, list[FlatFigures]]


class Judged(NamedTuple):
    """A goal and the measured figure."""

    side: str
    goal: Goal
    seen: float

    @property
    def met(self) -> bool:
        """Return whether the goal is met."""
        return self.seen >= self.goal.bound

    def __str__(self) -> str:
        """Format the goal as one line."""
        words = "Mtok/core-s" if self.goal.peer is None else f"times less than {self.goal.peer}"
        claim = f"{self.seen:,.1f} {words}, goal {self.goal.bound:g}"
        return f"{self.side:<16}{claim:<52}{'met' if self.met else 'NOT met'}"


def main(argv: list[str]) -> int:
    """Measure all sides, print and write the figures. Return 0: done, 1: a side failed, 2: bad input."""
    try:
        args = _parse(argv)
        load = BurstLoad(**{field.name: getattr(args, field.name) for field in dataclasses.fields(BurstLoad)})
    except ValueError as error:
        say(f"bench.peers: {error}")
        return 2
    machine = describe_machine()
    try:
        rounds, num_tokens = measure(load, args.rounds)
    except RuntimeError as error:
        say(f"bench.peers: {error}")
        return 1
    say(table(rounds))
    write_record(args.output, compose_record(machine, load, rounds, num_tokens))
    return 0


def measure(load: BurstLoad, num_rounds: int) -> tuple[Rounds, int]:
    """Run all rounds and print a line after each run.

    Returns:
        Each side's figures, and the number of tokens in a round.

    Raises:
        RuntimeError: A side failed or returned an unexpected answer.
    """
    rounds: Rounds = {side.name: [] for side in SIDES}

    def take(number: int, side: Side, run: Round) -> None:
        rounds[side.name].append(FlatFigures.of(run))
        say(f"round {number + 1}     {_row(side.name, rounds[side.name][-1:])}")

    return rounds, run_rounds(SIDES, load, num_rounds, take)


def table(rounds: Rounds) -> str:
    """Format medians, ratios and goals as tables."""
    num_rounds = len(rounds[OURS])
    lines = ["", f"median of {num_rounds} rounds", _head(), *(_row(name, rounds[name]) for name in rounds)]
    lines += ["", f"median of the rounds' ratios to {OURS}", _head(RATIOS)]
    for name in rounds:
        ratios = ratios_to(OURS, rounds, name)
        lines.append(f"{name:<16}" + "".join(f"{ratios[key]:>16,.3g}" for key in RATIOS))
    lines += ["", "coordinator CPU per token: goals", *map(str, judge(rounds))]
    lines += ["", *(f"{side.name:<16}{side.what}" for side in SIDES), "", NOTES]
    return "\n".join(lines)


def ratios_to(ours: str, rounds: Rounds, name: str) -> dict[str, float]:
    """Compare a side with one of ours, round by round.

    Returns:
        Median of the rounds' ratios for each figure.
    """
    pairs = list(zip(rounds[name], rounds[ours], strict=True))
    return {
        key: statistics.median(getattr(theirs, key) / getattr(mine, key) for theirs, mine in pairs)
        for key in RATIOS
    }


def judge(rounds: Rounds) -> list[Judged]:
    """Compare each of our sides with each goal."""
    return [Judged(side, goal, _seen(rounds, side, goal)) for side in JUDGED for goal in GOALS]


def compose_record(
    machine: dict[str, str], load: BurstLoad, rounds: Rounds, num_tokens: int
) -> dict[str, object]:
    """Build the --output record: medians, ratios, goals and every round's figures."""
    sides = {
        side.name: {
            "what": side.what,
            "median": {key: _median(rounds[side.name], key) for key in COLUMNS},
            **{f"median_ratio_to_{ours}": ratios_to(ours, rounds, side.name) for ours in JUDGED},
            "rounds": [dataclasses.asdict(figures) for figures in rounds[side.name]],
        }
        for side in SIDES
    }
    goals = [
        {"side": j.side, "peer": j.goal.peer, "bound": j.goal.bound, "seen": j.seen, "met": j.met}
        for j in judge(rounds)
    ]
    return {
        "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "load": dataclasses.asdict(load),
        "tokens": num_tokens,
        "goals": goals,
        "sides": sides,
    }


def _seen(rounds: Rounds, side: str, goal: Goal) -> float:
    if goal.peer is None:
        return _median(rounds[side], "mtok_per_core_s")
    return ratios_to(side, rounds, goal.peer)["coordinator_cpu_s_per_mtok"]


def _median(figures: list[FlatFigures], key: str) -> float:
    values: list[float] = [getattr(f, key) for f in figures]
    return statistics.median(values)


def _head(keys: tuple[str, ...] = tuple(COLUMNS)) -> str:
    return f"{'':<16}" + "".join(f"{COLUMNS[key].title:>16}" for key in keys)


def _row(name: str, figures: list[FlatFigures]) -> str:
    return f"{name:<16}" + "".join(
        f"{format(_median(figures, key), column.form):>16}" for key, column in COLUMNS.items()
    )


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        formatter_class=FlagFormatter,
        prog="python -m bench.peers",
        allow_abbrev=False,
        description="Compare the coordinator's CPU time per token over several transports.",
    )
    add_flags(parser)
    return parse_comparison(parser, argv, DEFAULT_ROUNDS, QUICK)


if __name__ == "__main__":
    run_command(main)
