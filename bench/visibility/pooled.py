"""`python -m bench.visibility.pooled FILE...`: judge the pairs of several runs of bench.visibility together.

The runs may have been made at the same time on disjoint cores:

    taskset -c 0-7 python -m bench.visibility --old DIR --output a.json &
    taskset -c 8-15 python -m bench.visibility --old DIR --output b.json
"""

import json
import sys
from pathlib import Path

from bench.command import say
from bench.flag_help import prints_usage
from bench.visibility.__main__ import Figures, compare, describe, judge


def main(argv: list[str]) -> int:
    """Read the files, judge all pairs. Return 0: goals met, 1: one was missed, 2: bad input."""
    if prints_usage(argv, __doc__):
        return 0
    try:
        pairs = [pair for name in argv for pair in _read(Path(name))]
        if len(pairs) < 2:
            raise ValueError(f"FILE...: {len(pairs)} pairs in {len(argv)} files, fewer than 2: no interval")
    except ValueError as error:
        say(f"bench.visibility.pooled: {error}")
        return 2
    compared = compare(pairs)
    goals = judge(compared)
    say(f"{len(pairs)} pairs\n" + describe(compared, goals))
    return 0 if all(goal.met for goal in goals) else 1


def _read(path: Path) -> list[tuple[Figures, Figures]]:
    """Read the pairs of one run, watched and plain.

    Raises:
        ValueError: The file is not that of a run of bench.visibility.
    """
    try:
        read = json.loads(path.read_text("utf-8"))["pairs"]
        return [(Figures(**pair["watched"]), Figures(**pair["plain"])) for pair in read]
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "no file of bench.visibility --output"
        raise ValueError(f"{path}: {reason}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
