"""`python -m bench.compare`: false alarms of comparisons, and slowdowns that they find."""

import argparse
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from bench.command import check_output, describe_commit, describe_machine, run_command, say, write_record
from bench.compare.measured_noise import CPU_DEVIATION, MAX_DRIFT, ROUNDS, RUN_DEVIATION, WINDOW_S
from bench.compare.virtual_runs import draw_pair
from bench.flag_help import FlagFormatter
from common.flags import FlagError
from sut.results.comparison.compared_figures import BEFORE_TAIL, TOKENS_PER_S
from sut.results.comparison.comparison import Comparison, compare

MAX_FALSE_ALARMS = 0.08
MIN_POWER = 0.90


class Result(NamedTuple):
    """Comparisons with one slowdown."""

    slowdown: float
    num_pairs: int
    num_claims: int
    """Comparisons that claimed a difference in any figure."""
    num_found: int
    """Comparisons that claimed that B is slower in tokens/s or in tokens/s before the tail."""
    claims: dict[str, int]
    """Comparisons that claimed a difference in a figure, by figure."""
    mean_ratios: dict[str, float]
    """B / A, by figure."""
    mean_half_widths: dict[str, float]
    """Half of the mean width of the interval, by figure."""


def main(argv: list[str]) -> int:
    """Simulate all pairs, print and write the figures; return 0: goals met, 1: not met, 2: bad input."""
    try:
        args = _parse(argv)
    except ValueError as error:
        print(f"bench.compare: {error}", file=sys.stderr)
        return 2
    machine = {**describe_machine(), "commit": describe_commit()}
    say("\nSimulated: a cost model of continuous batching, virtual time. No result of any engine.\n")
    same = judge(range(args.seeds), args.repeats, 0.0)
    slower = judge(range(args.seeds), args.repeats, args.slowdown)
    goals = {
        f"false alarms at most {MAX_FALSE_ALARMS:.0%}": same.num_claims <= MAX_FALSE_ALARMS * same.num_pairs,
        f"slowdown of {args.slowdown:.1%} found in at least {MIN_POWER:.0%}": (
            slower.num_found >= MIN_POWER * slower.num_pairs
        ),
    }
    for name, is_met in goals.items():
        say(f"{name}: {'met' if is_met else 'not met'}")
    noise = {
        "run_deviation": RUN_DEVIATION,
        "max_drift": MAX_DRIFT,
        "cpu_deviation": CPU_DEVIATION,
        "window_s": WINDOW_S,
        "rounds": dict(ROUNDS),
    }
    record: dict[str, object] = {"machine": machine, "repeats": args.repeats, "noise": noise}
    write_record(args.output, record | {"results": [same._asdict(), slower._asdict()], "goals": goals})
    return 0 if all(goals.values()) else 1


def _parse(argv: list[str]) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        FlagError: Names flag, value and bound.
    """
    parser = argparse.ArgumentParser(
        formatter_class=FlagFormatter, prog="python -m bench.compare", description=__doc__
    )
    parser.add_argument("--seeds", type=int, default=200, help="pairs of sides, seeds from 0; 1..10000")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side, 2..100")
    parser.add_argument(
        "--slowdown", type=float, default=0.03, help="share by which side B's engine is slower, 0..0.5"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="file for all figures")
    args = parser.parse_args(argv)
    for name, (low, high) in {"seeds": (1, 10_000), "repeats": (2, 100), "slowdown": (0.0, 0.5)}.items():
        if not low <= getattr(args, name) <= high:
            raise FlagError(f"--{name}", f"{getattr(args, name)} is not in {low}..{high}")
    check_output(args.output)
    return args


def judge(seeds: range, repeats: int, slowdown: float) -> Result:
    """Compare the sides of each seed."""
    started_s = time.process_time()
    found = [compare(draw_pair(seed, repeats, slowdown)) for seed in seeds]
    named = [{row.figure.name: row.sides[1].interval for row in one.rows if row.is_tested} for one in found]
    by_name = {name: [interval for one in named if (interval := one[name])] for name in named[0]}
    result = Result(
        slowdown=slowdown,
        num_pairs=len(found),
        num_claims=sum(any(claim.is_more_than_noise for claim in one.claims) for one in found),
        num_found=sum(_finds_slowdown(one) for one in found),
        claims={name: sum(one.excludes_one for one in by_name[name]) for name in by_name},
        mean_ratios={name: fmean(one.ratio for one in by_name[name]) for name in by_name},
        mean_half_widths={name: fmean((one.high - one.low) / 2 for one in by_name[name]) for name in by_name},
    )
    say(
        f"slowdown {slowdown:.1%}: {result.num_claims} of {result.num_pairs} claim a difference, "
        f"{result.num_found} that B is slower ({time.process_time() - started_s:.0f} s of CPU)"
    )
    for name, num in result.claims.items():
        ratio, width = result.mean_ratios[name], result.mean_half_widths[name]
        say(f"  {name:<26} {num} claims, mean ratio {ratio:.4f} +- {width:.4f}")
    return result


def _finds_slowdown(comparison: Comparison) -> bool:
    """Whether the comparison claims that B generates fewer tokens per second."""
    intervals = [
        row.sides[1].interval for row in comparison.rows if row.figure in (TOKENS_PER_S, BEFORE_TAIL)
    ]
    return any(interval is not None and interval.high < 1 for interval in intervals)


if __name__ == "__main__":
    run_command(main)
