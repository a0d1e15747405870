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
    """Read the files, judge all pairs. Return 0: goals met, 1: one was missed."""
    if prints_usage(argv, __doc__):
        return 0
    read = [pair for name in argv for pair in json.loads(Path(name).read_text("utf-8"))["pairs"]]
    pairs = [(Figures(**pair["watched"]), Figures(**pair["plain"])) for pair in read]
    compared = compare(pairs)
    goals = judge(compared)
    say(f"{len(pairs)} pairs\n" + describe(compared, goals))
    return 0 if all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
