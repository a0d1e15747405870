"""`python -m bench.replay.checkouts --old DIR`: CPU of the scheduler for the same frames, in two checkouts.

Two processes replay the same load, each in its checkout, 50 frames at a time in turns: other programs on the
machine slow both alike. gRPC, LoadGen and all other threads are absent.
"""

import argparse
import json
import math
import os
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench.command import say
from bench.flag_help import FlagFormatter
from bench.intervals import mean_interval
from bench.processes import ROOT
from bench.replay.__main__ import LOADS, MIN_PAIRS
from bench.replay.recording import Load

SHORT = {"short": Load(3_000, 8, (20, 60), 3, is_server=True)}
"""Short answers, as bench.visibility has them: most frames begin or end a request."""
TRIMMED_SHARE = 0.1
# However slow the machine is.
PIECE_TIMEOUT_S = 120.0
"""Time to make the frames of a load, or to take one piece of it."""
STOP_TIMEOUT_S = 5.0
MIN_TURNS = 2
REPLAYER = Path(__file__).with_name("replayer.py")


def compare(
    roots: list[Path], pythons: list[Path], load: Load, seconds: float, num_pairs: int
) -> dict[str, object]:
    """Replay a load in pairs of processes; returns us per frame and the ratio, second checkout to first.

    Args:
        roots: The two checkouts.
        pythons: The interpreter of each.
        load: The load.
        seconds: For all pairs; of a pair whose share has passed only the first MIN_TURNS are made.
        num_pairs: Of processes, at least 2: two of one checkout differ by 3 %, whatever their turns say.
    """
    pairs = [_replay_pair(roots, pythons, load, seconds / num_pairs) for _ in range(num_pairs)]
    logs = [log_ratio(turns) for turns in pairs]
    mean, low, high = map(math.exp, mean_interval(logs))
    turns = [turn for pair in pairs for turn in pair]
    return {
        "turns": len(turns),
        "old_us_per_frame": round(statistics.median(old for old, _ in turns), 2),
        "new_us_per_frame": round(statistics.median(new for _, new in turns), 2),
        "pairs": [round(math.exp(one), 4) for one in logs],
        "new / old": round(mean, 4),
        "interval_95": [round(low, 4), round(high, 4)],
    }


def _replay_pair(
    roots: list[Path], pythons: list[Path], load: Load, seconds: float
) -> list[tuple[float, float]]:
    """Start a process in each checkout, and let them take pieces in turns; returns us per frame of each."""
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
    return turns


def log_ratio(turns: Sequence[tuple[float, float]]) -> float:
    """Return the mean logarithm of the turns' ratios, second to first, without the tenth at each end.

    The arithmetic mean of noisy ratios is above 1 for equal sides.
    """
    logs = sorted(math.log(new / old) for old, new in turns)
    num_dropped = int(len(logs) * TRIMMED_SHARE)
    return statistics.mean(logs[num_dropped : len(logs) - num_dropped])


@contextmanager
def _started(root: Path, python: Path, load: Load) -> "Iterator[subprocess.Popen[str]]":
    """Run a replayer within a `with` block."""
    process = subprocess.Popen(
        [str(python), str(REPLAYER), json.dumps(load)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        for pipe in filter(None, (process.stdin, process.stdout)):
            with suppress(BrokenPipeError):
                pipe.close()


def _take_piece(side: "subprocess.Popen[str]") -> float:
    """Let a process take its next piece; returns us per frame."""
    assert side.stdin is not None
    side.stdin.write("\n")
    side.stdin.flush()
    num_frames, spent_ns = _read(side)
    return spent_ns / num_frames / 1e3


def _read(side: "subprocess.Popen[str]") -> list[int]:
    assert side.stdout is not None
    if not select.select([side.stdout], [], [], PIECE_TIMEOUT_S)[0]:
        raise RuntimeError(f"a replay has not answered for {PIECE_TIMEOUT_S:g} s")
    line = side.stdout.readline()
    if not line:
        raise RuntimeError(f"a replay has ended with {side.wait(STOP_TIMEOUT_S)}")
    return [int(number) for number in line.split()]


def main(argv: list[str]) -> int:
    """Compare with every load."""
    parser = argparse.ArgumentParser(
        formatter_class=FlagFormatter, prog="python -m bench.replay.checkouts", description=__doc__
    )
    parser.add_argument("--old", type=Path, required=True, metavar="DIR", help="checkout with its .venv")
    parser.add_argument("--seconds", type=float, default=20.0, help="time of each load, in seconds")
    parser.add_argument("--pairs", type=int, default=6, help="pairs of processes, at least 2")
    parser.add_argument("--load", help="only the load whose name begins with this")
    flags = parser.parse_args(argv)
    if flags.pairs < MIN_PAIRS:
        parser.error(f"--pairs: {flags.pairs} is below {MIN_PAIRS}")
    old = flags.old.absolute()
    for name, load in {**SHORT, **LOADS}.items():
        if name.startswith(flags.load or ""):
            pythons = [old / ".venv/bin/python", Path(sys.executable)]
            say(json.dumps({"load": name, **compare([old, ROOT], pythons, load, flags.seconds, flags.pairs)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
