"""`python -m bench.fleet SHOW`: one coordinator over many simulated workers.

The default sizes are those of the largest published fleet.
See bench/README.md for what each part measures and how to read the output.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench.command import (
    check_output,
    describe_commit,
    describe_machine,
    flag,
    run_command,
    say,
    write_record,
)
from bench.flag_help import FlagFormatter, add_fields
from bench.fleet import burst, growth, held, pair, server
from bench.fleet.fleet_run import Costs, Goal, Shown
from bench.processes import Processes
from common.flags import FlagError, Parser


class Show(NamedTuple):
    """A part of the command."""

    what: str
    plan: Callable[..., Any]
    """A frozen dataclass whose fields are the part's flags; raises ValueError for a value out of bounds."""
    quick: dict[str, object]
    """Default values that --quick sets instead."""
    show: Callable[[Any, Processes, Path], Shown]


SHOWS = {
    "held": Show(
        "60,000 requests in flight and 1.12 million tokens/s, held for a minute",
        held.Held,
        held.QUICK,
        held.show,
    ),
    "server": Show(
        "2,000 queries/s over engines that answer immediately",
        server.Fast,
        server.QUICK,
        server.show,
    ),
    "burst": Show("541,200 Offline samples in one call", burst.Burst, burst.QUICK, burst.show),
    "growth": Show("CPU over workers, requests and frames", growth.Growth, growth.QUICK, growth.show),
}


class Asked(NamedTuple):
    """The parsed command line."""

    show: Show
    plan: Any
    output: Path | None


def main(argv: list[str]) -> int:
    """Run a part, print and write its figures.

    Returns:
        0: all goals met; 1: a goal was missed or the run failed; 2: bad input.
    """
    if argv[:1] == ["pair"]:
        return pair.main(argv[1:])
    try:
        asked = _parse(argv)
    except ValueError as error:
        say(f"bench.fleet: {error}")
        return 2
    machine = {**describe_machine(), "commit": describe_commit()}
    say(f"{'commit':<14}{machine['commit']}\n{'flags':<14}{asked.plan}")
    try:
        with tempfile.TemporaryDirectory(prefix="bench-fleet-") as name, Processes() as processes:
            shown = asked.show.show(asked.plan, processes, Path(name))
    except RuntimeError as error:
        say(f"bench.fleet: {error}")
        return 1
    say(report(shown))
    write_record(asked.output, _record(machine, argv, asked.plan, shown))
    return 0 if all(goal.met for goal in shown.goals) else 1


def report(shown: Shown) -> str:
    """Format figures and goals as text."""
    lines = ["", *_lines(shown.figures)]
    if shown.text:
        lines += [shown.text]
    return "\n".join([*lines, "", *map(_judged, shown.goals)])


def _lines(figures: dict[str, Any]) -> list[str]:
    """Return a line for each figure and each group of figures; lists are only written to the file."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            numbers = {key: number for key, number in value.items() if not isinstance(number, list)}
            if numbers:
                lines.append(f"{name}: " + ", ".join(f"{key} {_say(n)}" for key, n in numbers.items()))
        elif not isinstance(value, list):
            lines.append(f"{name}: {_say(value)}")
    return lines


def _say(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _judged(goal: Goal) -> str:
    return f"{'met    ' if goal.met else 'NOT MET'} {goal.name:<24}{goal.seen}"


def _record(machine: dict[str, str], argv: list[str], plan: Any, shown: Shown) -> dict[str, object]:
    values = {name: str(v) if isinstance(v, Path) else v for name, v in dataclasses.asdict(plan).items()}
    return {
        "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "command": ["bench.fleet", *argv],
        "flags": values,
        "goals": [goal._asdict() for goal in shown.goals],
        "figures": shown.figures,
    }


def _parse(argv: list[str]) -> Asked:
    """Parse the command line.

    Raises:
        FlagError: Names flag, value and bound.
    """
    parser = Parser(
        formatter_class=FlagFormatter, prog="python -m bench.fleet", allow_abbrev=False, description=__doc__
    )
    names = "|".join(SHOWS)
    parts = parser.add_subparsers(dest="name", required=True, metavar=f"{names}|pair", parser_class=Parser)
    parts.add_parser("pair", help="server or held, alternating between two checkouts")
    for name, show in SHOWS.items():
        part = parts.add_parser(
            name, allow_abbrev=False, help=show.what, description=show.what, formatter_class=FlagFormatter
        )
        add_fields(part, show.plan, {"answer_tokens": 2})  # type: ignore[arg-type]  # see Show.plan
        part.add_argument("--quick", action="store_true", help="small and short run")
        part.add_argument("--output", type=Path, metavar="FILE.json", help="file for all figures")
        if "--quick" in argv:
            part.set_defaults(**show.quick)
    args = vars(parser.parse_args(argv))
    _check_costs(argv, set(args))
    show, output = SHOWS[args.pop("name")], args.pop("output")
    args.pop("quick")
    check_output(output)
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}
    return Asked(show, show.plan(**values), output)


def _check_costs(argv: list[str], names: set[str]) -> None:
    """Check that either all or none of a machine's step costs are given.

    Raises:
        FlagError: Names a missing flag; its default would mix the costs of two machines.
    """
    costs = [field.name for field in dataclasses.fields(Costs)]
    if not names.issuperset(costs):
        return
    given = {word.partition("=")[0] for word in argv}
    missing = [flag(name) for name in costs if flag(name) not in given]
    if 0 < len(missing) < len(costs):
        raise FlagError(missing[0], "missing; the costs of a step are given together or not at all")


if __name__ == "__main__":
    run_command(main)
