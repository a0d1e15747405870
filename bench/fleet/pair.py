"""`python -m bench.fleet pair --old DIR server|held [FLAGS]`: compare two checkouts on one machine.

Each round runs `python -m bench.fleet server|held FLAGS` once in each checkout; the run in the new one also
measures the floor. The checkout that runs first alternates from round to round.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from bench.command import describe_commit, describe_machine, new_directory, say, write_record
from bench.flag_help import FlagFormatter
from bench.processes import THIS_CHECKOUT, Checkout, Processes, tail
from common.flags import FlagError, Parser

SIDE_TIMEOUT_S = 1800.0
PARTS = ("server", "held")


class Pair(NamedTuple):
    """The parsed command line."""

    part: str
    flags: list[str]
    """Flags of the part, for both checkouts."""
    old: Checkout
    rounds: int
    directory: Path
    """Directory for the output of each run and for pair.json."""


class Figures(NamedTuple):
    """Figures of one run in one checkout; None if the part does not measure them."""

    us_per_query: float
    """CPU time of the coordinator per query."""
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    report_p50_ms: float
    report_p99_ms: float
    frames: int
    goals_met: bool
    floor_us_per_query: float | None

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Figures":
        """Extract the figures from the --output file of a run."""
        figures = record["figures"]
        queries_per_s = figures.get("queries/s", record["flags"]["queries_per_s"])
        ttft, report = figures.get("TTFT by LoadGen, ms", {}), figures["report delay, ms"]
        return cls(
            us_per_query=1e6 * figures["coordinator, cores"] / queries_per_s,
            ttft_p50_ms=ttft.get("p50"),
            ttft_p99_ms=ttft.get("p99"),
            report_p50_ms=report["p50"],
            report_p99_ms=report["p99"],
            frames=figures["frames"],
            goals_met=all(goal["met"] for goal in record["goals"]),
            floor_us_per_query=figures.get("floor", {}).get("us/query"),
        )

    def line(self, name: str) -> str:
        """Format the figures as a table row."""
        columns = [self.us_per_query, *self[1:5], self.floor_us_per_query]
        cells = "".join(f"{'-' if value is None else f'{value:,.2f}':>12}" for value in columns)
        return f"{name:<12}{cells}{self.frames:>12,}{'yes' if self.goals_met else 'no':>8}"


HEADING = f"{'':<12}" + "".join(
    f"{name:>{width}}"
    for name, width in (
        ("us/query", 12),
        ("TTFT p50", 12),
        ("p99, ms", 12),
        ("report p50", 12),
        ("p99, ms", 12),
        ("floor us", 12),
        ("frames", 12),
        ("goals", 8),
    )
)


class Round(NamedTuple):
    """One run in each checkout."""

    old: Figures
    new: Figures

    def ratios(self) -> dict[str, float]:
        """Return new / old for each figure that both runs have."""
        names = Figures._fields[:6]
        pairs = {name: (getattr(self.old, name), getattr(self.new, name)) for name in names}
        ratios = {name: new / old for name, (old, new) in pairs.items() if new is not None and old}
        floor = self.new.floor_us_per_query
        if floor is not None and self.old.us_per_query > floor:
            above = (self.new.us_per_query - floor) / (self.old.us_per_query - floor)
            ratios |= {"us_per_query above the floor": above}
        return ratios


def main(argv: list[str]) -> int:
    """Run the comparison, print and write it. Return 0: done, 1: a run failed, 2: bad input."""
    try:
        pair = parse(argv)
    except ValueError as error:
        say(f"bench.fleet pair: {error}")
        return 2
    machine = {**describe_machine(), "commit": describe_commit()}
    say(f"{'old':<14}{pair.old.root}\n{'raw output':<14}{pair.directory}\n\n{HEADING}")
    try:
        with Processes() as processes:
            rounds = [_run_round(pair, number, processes) for number in range(pair.rounds)]
    except RuntimeError as error:
        say(f"bench.fleet pair: {error}")
        return 1
    medians = medians_of(rounds)
    say(f"\nnew / old, median of {len(rounds)} rounds")
    say("\n".join(f"  {name:<32}{value:.3f}" for name, value in medians.items()))
    record: dict[str, object] = {
        "machine": machine,
        "old": str(pair.old.root),
        "command": ["bench.fleet", "pair", *argv],
        "rounds": [{side: figures._asdict() for side, figures in r._asdict().items()} for r in rounds],
        "medians of new / old": medians,
    }
    write_record(pair.directory / "pair.json", record)
    return 0


def medians_of(rounds: list[Round]) -> dict[str, float]:
    """Return the median over the rounds of each ratio that every round has."""
    ratios = [one.ratios() for one in rounds]
    shared = [name for name in ratios[0] if all(name in found for found in ratios)]
    return {name: statistics.median(found[name] for found in ratios) for name in shared}


def parse(argv: list[str]) -> Pair:
    """Parse the command line; flags after the part's name that are unknown here belong to the part.

    Raises:
        FlagError: Names flag, value and bound.
    """
    parser = Parser(
        formatter_class=FlagFormatter,
        prog="python -m bench.fleet pair",
        allow_abbrev=False,
        description=__doc__,
    )
    parser.add_argument("--old", type=Path, required=True, metavar="DIR", help="checkout to compare with")
    parser.add_argument(
        "--old-python", type=Path, metavar="FILE", help="interpreter for it (default its .venv/bin/python)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs in each checkout, 1 or more")
    parser.add_argument(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="new or empty directory for all output (default a new one under /tmp)",
    )
    parser.add_argument("part", choices=PARTS, help="followed by the flags of the part")
    args, flags = parser.parse_known_args(argv)
    return Pair(args.part, flags, _old_checkout(args), _checked_rounds(args.rounds), _directory(args))


def _old_checkout(args: argparse.Namespace) -> Checkout:
    root = args.old.resolve()
    if not (root / "bench").is_dir():
        raise FlagError("--old", f"{root} has no folder bench")
    venv = root / ".venv" / "bin" / "python"
    python = args.old_python or (venv if venv.exists() else Path(sys.executable))
    if not python.exists():
        raise FlagError("--old-python", f"{python} does not exist")
    # Do not resolve: the interpreter of a virtual environment is a symbolic link.
    return Checkout(root, str(python.absolute()))


def _checked_rounds(rounds: int) -> int:
    if rounds < 1:
        raise FlagError("--rounds", f"{rounds} is below 1")
    return rounds


def _directory(args: argparse.Namespace) -> Path:
    if args.output_dir is None:
        return Path(tempfile.mkdtemp(prefix="bench-fleet-pair-"))
    return new_directory("--output-dir", args.output_dir)


def _run_round(pair: Pair, number: int, processes: Processes) -> Round:
    sides = {"old": pair.old, "new": THIS_CHECKOUT}
    order = ["old", "new"] if number % 2 == 0 else ["new", "old"]
    found = {}
    for side in order:
        extra = ["--floor"] if side == "new" else []
        found[side] = _run_side(pair, f"round{number}-{side}", [*pair.flags, *extra], processes, sides[side])
        say(found[side].line(f"{number} {side}"))
    return Round(found["old"], found["new"])


def _run_side(pair: Pair, name: str, flags: list[str], processes: Processes, checkout: Checkout) -> Figures:
    """Run the part once in one checkout.

    Raises:
        RuntimeError: The run wrote no figures or exceeded its time limit.
    """
    output, log = pair.directory / f"{name}.json", pair.directory / f"{name}.txt"
    output.unlink(missing_ok=True)
    argv = ["bench.fleet", pair.part, *flags, "--output", str(output)]
    process = processes.start(argv, log, checkout=checkout)
    try:
        process.wait(SIDE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{name}: not done within {SIDE_TIMEOUT_S:g} s: {tail(log)}") from None
    if not output.exists():
        raise RuntimeError(f"{name}: exit code {process.returncode}: {tail(log)}")
    return Figures.of(json.loads(output.read_text("utf-8")))
