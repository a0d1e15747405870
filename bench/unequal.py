"""`python -m bench.unequal`: do two vLLM workers of unequal speed end together?

See bench/README.md for what is measured and how to read it.
"""

import argparse
import contextlib
import dataclasses
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from bench.bounds import flag
from bench.command import describe_machine, parse_comparison, run_command, say, write_record
from bench.cpu_limit import LimitKind, Quota, quota
from bench.processes import Processes
from bench.unequal_figures import HELD, Round
from bench.unequal_run import Plan, Unequal
from coordinator.config import Parser, one_of

QUICK: dict[str, object] = {"rounds": 1, "samples": 64, "requests": 128}


def main(argv: list[str]) -> int:
    """Measure, print, write; 0 done, 1 failed, 2 bad input."""
    with contextlib.ExitStack() as stack:
        try:
            args = _parse(argv)
            plan = Plan(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Plan)})
            held_by = _limit(plan, stack)
        except ValueError as error:
            say(f"bench.unequal: {error}")
            return 2
        machine = describe_machine()
        say(f"plan          {plan}")
        try:
            rounds = _measure(plan, held_by, args.rounds, stack)
        except (RuntimeError, OSError) as error:
            say(f"bench.unequal: {error}")
            return 1
    say(summary(rounds))
    write_record(args.output, compose_record(machine, plan, rounds))
    return 0


def _limit(plan: Plan, stack: contextlib.ExitStack) -> Quota | None:
    """Make the cgroup that --limit asks for; it goes when the stack is left.

    Raises:
        ValueError: It cannot be had here.
    """
    if plan.limit is LimitKind.SIGNALS:
        return None
    try:
        return stack.enter_context(quota())
    except OSError as error:
        raise ValueError(f"--limit: quota is not to be had here, signals would be: {error}") from error


def _measure(plan: Plan, held_by: Quota | None, num_rounds: int, stack: contextlib.ExitStack) -> list[Round]:
    """Run the rounds.

    Raises:
        RuntimeError: A process failed, or an answer is wrong.
    """
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-unequal-"))
    # Left first: the cgroup goes only without processes.
    processes = stack.enter_context(Processes())
    unequal = Unequal(plan, processes, Path(directory), held_by)
    unequal.start()
    say(
        f"\n{'round':<7}{'worker':<8}{'requests':>9}{'tokens':>9}{'tokens/s':>10}{'request p50':>13}"
        f"{'max s':>8}{'ended s':>9}"
    )
    rounds = []
    for number in range(num_rounds):
        rounds.append(unequal.run_round(number))
        say(lines_of(number, rounds[-1]))
    return rounds


def lines_of(number: int, found: Round) -> str:
    """Lay a round out for a person."""
    lines = [
        f"{number:<7}{'held' if index == HELD else 'free':<8}{part.requests:>9}{part.tokens:>9}"
        f"{part.tokens_per_s:>10.0f}{part.service_p50_s:>13.3f}{part.service_max_s:>8.3f}{part.ended_s:>9.3f}"
        for index, part in enumerate(found.parts)
    ]
    return "\n".join(lines)


def summary(rounds: list[Round]) -> str:
    """Say by how much the ends differ, a round a line."""
    lines = [f"\n{'round':<7}{'held ends later by':>19}{'one request':>13}{'goal':>8}{'halves would':>14}"]
    lines += [
        f"{number:<7}{found.difference_s:>17.3f} s{found.request_s:>11.3f} s"
        f"{'met' if found.met else 'MISSED':>8}{found.halves_difference_s:>12.3f} s"
        for number, found in enumerate(rounds)
    ]
    return "\n".join(lines)


def compose_record(machine: dict[str, str], plan: Plan, rounds: list[Round]) -> dict[str, object]:
    """Compose what --output gets."""
    return {
        "ended_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "engine": rounds[0].engine,
        "plan": dataclasses.asdict(plan),
        "rounds": [
            {
                "outcome": found.outcome,
                "answers": found.answers,
                "workers": [
                    {"name": "held" if index == HELD else "free"}
                    | part._asdict()
                    | {"tokens_per_s": part.tokens_per_s}
                    for index, part in enumerate(found.parts)
                ],
                "difference_s": found.difference_s,
                "request_s": found.request_s,
                "met": found.met,
                "halves_difference_s": found.halves_difference_s,
            }
            for found in rounds
        ],
    }


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m bench.unequal", allow_abbrev=False, description="Two vLLM workers, one of them slow."
    )
    for field in dataclasses.fields(Plan):
        kind = one_of(LimitKind) if field.name == "limit" else type(field.default)
        parser.add_argument(flag(field.name), type=kind, default=field.default)
    return parse_comparison(parser, argv, rounds=3, quick=QUICK)


if __name__ == "__main__":
    run_command(main)
