"""`python -m bench.replay.checkouts --old DIR`: CPU of the scheduler for the same frames, in two checkouts.

Two processes replay the same load, each in its checkout, 50 frames at a time in turns: other programs on the
machine slow both alike. gRPC, LoadGen and all other threads are absent.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from bench.command import say
from bench.processes import ROOT
from bench.replay.__main__ import LOADS, interval
from bench.replay.recording import Load

SHORT = {"short": Load(3_000, 8, (20, 60), 3, is_server=True)}
"""Short answers, as bench.visibility has them: most frames begin or end a request."""
TRIMMED_SHARE = 0.1
# An interval needs two, however slow the machine is.
MIN_TURNS = 2
REPLAYER = Path(__file__).with_name("replayer.py")


def compare(roots: list[Path], pythons: list[Path], load: Load, seconds: float) -> dict[str, object]:
    """Replay a load in both checkouts in turns; returns us per frame and the ratio, second to first.

    After `seconds` no turn begins, except the first MIN_TURNS. A tenth of the turns with the smallest and the
    largest ratio is dropped.
    """
    turns: list[tuple[float, float]] = []
    with ExitStack() as stack:
        sides = [
            stack.enter_context(_started(root, python, load))
            for root, python in zip(roots, pythons, strict=True)
        ]
        for side in sides:
            _read(side)
        end_s = time.monotonic() + seconds
        while len(turns) < MIN_TURNS or time.monotonic() < end_s:
            order = [0, 1] if len(turns) % 2 else [1, 0]
            spent = {index: _take_piece(sides[index]) for index in order}
            turns.append((spent[0], spent[1]))
        for side in sides:
            side.kill()
    ratios = sorted(new / old for old, new in turns)
    num_dropped = int(len(ratios) * TRIMMED_SHARE)
    kept = ratios[num_dropped : len(ratios) - num_dropped]
    _, low, high = interval(ratios)
    return {
        "turns": len(turns),
        "old_us_per_frame": round(statistics.median(old for old, _ in turns), 2),
        "new_us_per_frame": round(statistics.median(new for _, new in turns), 2),
        "new / old": round(statistics.mean(kept), 4),
        "half_interval_95": round((high - low) / 2, 4),
    }


def _started(root: Path, python: Path, load: Load) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(python), str(REPLAYER), json.dumps(load)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _take_piece(side: "subprocess.Popen[str]") -> float:
    """Let a process take its next piece; returns us per frame."""
    assert side.stdin is not None
    side.stdin.write("\n")
    side.stdin.flush()
    num_frames, spent_ns = _read(side)
    return spent_ns / num_frames / 1e3


def _read(side: "subprocess.Popen[str]") -> list[int]:
    assert side.stdout is not None
    line = side.stdout.readline()
    if not line:
        raise RuntimeError(f"a replay has ended with {side.wait()}")
    return [int(number) for number in line.split()]


def main(argv: list[str]) -> int:
    """Compare with every load."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay.checkouts", description=__doc__)
    parser.add_argument("--old", type=Path, required=True, metavar="DIR", help="checkout with its .venv")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each load")
    parser.add_argument("--load", help="only the load whose name begins with this")
    flags = parser.parse_args(argv)
    old = flags.old.absolute()
    for name, load in {**SHORT, **LOADS}.items():
        if name.startswith(flags.load or ""):
            pythons = [old / ".venv/bin/python", Path(sys.executable)]
            say(json.dumps({"load": name, **compare([old, ROOT], pythons, load, flags.seconds)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
