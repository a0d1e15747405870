"""`python -m bench.tail`: end of an Offline run by dispatch policy, simulated in virtual time."""

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from bench.command import check_output, describe_machine, flag, run_command, say, write_record
from bench.flag_help import FlagFormatter
from bench.tail.policies import POLICIES, Policy, ours
from bench.tail.virtual_replicas import Cost, Floats, Ints, draw_answer_lens, spread_speeds
from common.flags import FlagError


def main(argv: list[str]) -> int:
    """Simulate all policies on the same answer lengths and print the table; return 2 for bad input."""
    args = _parser().parse_args(argv)
    try:
        _check(args)
        check_output(args.output)
    except ValueError as error:
        print(f"bench.tail: {error}", file=sys.stderr)
        return 2
    machine = describe_machine()
    say("\nSimulated: a cost model of continuous batching, virtual time. No result of any engine.\n")
    rows = [
        row
        for num_replicas in (args.replicas, args.beside)
        for spread in (0.0, args.spread)
        for row in _rows(args, num_replicas, spread)
    ]
    ratios = _ratios(rows, args.replicas, args.beside)
    for (policy, spread), ratio in ratios.items():
        say(
            f"{policy:<18} spread {spread:>4.0%}: one of {args.replicas} replicas reaches {ratio:.2%} "
            f"of one of {args.beside}"
        )
    flags = {name: str(value) for name, value in vars(args).items()}
    write_record(
        args.output,
        {"machine": machine, "flags": flags, "cost": Cost()._asdict(), "rows": rows},
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        formatter_class=FlagFormatter, prog="python -m bench.tail", description=__doc__
    )
    parser.add_argument("--replicas", type=int, default=72, help="replicas of the fleet, 1..1000")
    parser.add_argument(
        "--beside", type=int, default=8, help="replicas of the small fleet to compare with, 1..1000"
    )
    parser.add_argument(
        "--samples-per-replica",
        type=float,
        default=7_195.5,
        help="samples per replica of both fleets, 1..100000",
    )
    parser.add_argument(
        "--spread", type=float, default=0.15, help="fastest minus slowest speed, around 1; 0..1"
    )
    parser.add_argument("--seeds", type=int, default=5, help="draws of all answer lengths, 1..100")
    parser.add_argument(
        "--emptying", type=float, nargs="*", default=[], help="also run ours with these LAST_OVER_MEAN"
    )
    parser.add_argument("--output", type=Path, help="file for the figures, JSON")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Check the flags.

    Raises:
        ValueError: Names the flag, its value and its bound.
    """
    bounds = {
        "replicas": (1, 1_000),
        "beside": (1, 1_000),
        "samples_per_replica": (1, 100_000),
        "spread": (0, 1),
        "seeds": (1, 100),
    }
    for name, (low, high) in bounds.items():
        value = getattr(args, name)
        if not low <= value <= high:
            raise FlagError(flag(name), f"{value} is not in {low}..{high}")
    for means in args.emptying:
        if not 0 <= means <= 100:
            raise FlagError("--emptying", f"{means} is not in 0..100")


def _rows(args: argparse.Namespace, num_replicas: int, spread: float) -> list[dict[str, object]]:
    """Simulate one fleet under all policies, with every draw of lengths."""
    speeds = spread_speeds(num_replicas, spread)
    num_samples = round(args.samples_per_replica * num_replicas)
    say(f"{num_replicas} replicas, {num_samples:,} samples, speeds spread by {spread:.0%}")
    say(f"  {'policy':<18}{'end s':>8}  {'over draws':<18}{'idle':>7}{'tok/s/replica':>15}{'CPU s':>7}")
    draws = [draw_answer_lens(num_samples, seed) for seed in range(args.seeds)]
    policies = POLICIES | {
        f"ours, emptying {means:g}": partial(ours, last_over_mean=means) for means in args.emptying
    }
    rows = [_row(name, policy, draws, speeds) for name, policy in policies.items()]
    return [{"replicas": num_replicas, "spread": spread, **row} for row in rows]


def _row(name: str, policy: Policy, draws: list[Ints], speeds: Floats) -> dict[str, object]:
    started_s = time.process_time()
    ends = [np.array([r.empty() for r in policy(lens, speeds, Cost())]) for lens in draws]
    idle = statistics.mean(float(1 - end.mean() / end.max()) for end in ends)
    return _report(name, [float(end.max()) for end in ends], draws, speeds, started_s, idle=idle)


def _report(
    name: str,
    ends_s: list[float],
    draws: list[Ints],
    speeds: Floats,
    started_s: float,
    idle: float | None = None,
) -> dict[str, object]:
    """Print a row and return its figures: means over the draws, and the end of each draw."""
    rate = statistics.mean(
        int(lens.sum()) / end_s / len(speeds) for lens, end_s in zip(draws, ends_s, strict=True)
    )
    cpu_s = (time.process_time() - started_s) / len(draws)
    idle_cell = "" if idle is None else f"{idle:.2%}"
    span = f"{min(ends_s):.1f} to {max(ends_s):.1f}"
    say(f"  {name:<18}{statistics.mean(ends_s):>8.1f}  {span:<18}{idle_cell:>7}{rate:>15,.0f}{cpu_s:>7.1f}")
    return {"policy": name, "end_s": ends_s, "tokens_per_s_per_replica": rate, "idle": idle, "cpu_s": cpu_s}


def _ratios(rows: list[dict[str, object]], replicas: int, beside: int) -> dict[tuple[str, float], float]:
    """Divide the tokens/s per replica of the fleet by those of the small fleet, by policy and spread."""
    rates = {
        (row["replicas"], str(row["policy"]), float(str(row["spread"]))): float(
            str(row["tokens_per_s_per_replica"])
        )
        for row in rows
    }
    return {
        (policy, spread): rate / rates[beside, policy, spread]
        for (num, policy, spread), rate in rates.items()
        if num == replicas
    }


if __name__ == "__main__":
    run_command(main)
