"""`python -m bench.replay`: the cost of the checks of ends and answers, as a share of the coordinator's CPU.

One process reads one recorded stream of frames with and without the checks, in turns. This has
gRPC's cost, but not LoadGen's, so the share of a whole coordinator is smaller than the printed one.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator
from unittest import mock

import numpy as np

from bench.replay.recording import Load, Replay, record
from bench.replay.sender import sending
from coordinator.scheduling import request_table
from coordinator.scheduling.degenerate_answers import DegenerateAnswers
from protos.columns import FrameError, TokenColumns, TokenRules

LOADS = {
    "held": Load(834, 417, (878, 1678), 2, is_server=True),
    "decode": Load(512, 256, (640, 1916), 1, is_server=False),
    "small": Load(16, 8, (878, 1678), 1, is_server=True),
}
QUICK = {"quick": Load(20, 8, (20, 40), 2, is_server=True)}
MAX_SHARE = 0.01
# Two-sided 95 % quantiles of Student's t by degrees of freedom; 1.96 beyond.
T_95 = {1: 12.71, 3: 3.18, 9: 2.26, 11: 2.20, 14: 2.14, 19: 2.09, 29: 2.05, 39: 2.02}


def check_vocabulary(_: TokenRules, columns: TokenColumns) -> None:
    """Check what was checked before the rules of ends: the vocabulary alone."""
    if len(columns.tokens) and np.maximum.reduce(columns.tokens.view(np.uint32)) >= 201_088:
        raise FrameError("a token id outside the vocabulary")


@contextlib.contextmanager
def without_checks() -> Iterator[None]:
    """Leave out the checks of ends and the counts of degenerate answers for a block."""
    with (
        mock.patch.object(TokenRules, "check", check_vocabulary),
        mock.patch.object(request_table, "check_ends", lambda *_: None),
        mock.patch.object(DegenerateAnswers, "add", lambda *_: None),
    ):
        yield


def replay_s(load: Load, address: str, *, checked: bool) -> float:
    """Replay once; returns the CPU time of this process in seconds."""
    replay = Replay(load)
    gc.collect()
    gc.disable()
    with contextlib.nullcontext() if checked else without_checks():
        begun_s = time.process_time()
        asyncio.run(replay.take(address))
        spent_s = time.process_time() - begun_s
    gc.enable()
    return spent_s


def measure(load: Load, num_pairs: int) -> tuple[list[bytes], list[tuple[float, float]]]:
    """Record a load, and replay it in pairs, each with the other order than the one before.

    Returns:
        The frames, and seconds with and without the checks of each pair.
    """
    frames = asyncio.run(record(load))
    pairs = []
    with sending(frames) as address:
        for checked in (True, False):
            replay_s(load, address, checked=checked)
        for number in range(num_pairs):
            order = (True, False) if number % 2 else (False, True)
            spent_s = {checked: replay_s(load, address, checked=checked) for checked in order}
            pairs.append((spent_s[True], spent_s[False]))
    return frames, pairs


def interval(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return mean and 95 % interval of the relative difference of the pairs."""
    shares = [checked / unchecked - 1 for checked, unchecked in pairs]
    half = T_95.get(len(shares) - 1, 1.96) * statistics.stdev(shares) / len(shares) ** 0.5
    mean = statistics.mean(shares)
    return mean, mean - half, mean + half


def main(argv: list[str]) -> int:
    """Measure every load; exit code 1 if an interval reaches beyond MAX_SHARE."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="replays of each side, at least 2")
    parser.add_argument("--load", help="only the load whose name begins with this")
    parser.add_argument("--quick", action="store_true", help="one small load, without a goal")
    flags = parser.parse_args(argv)
    missed = False
    for name, load in (QUICK if flags.quick else LOADS).items():
        if not name.startswith(flags.load or ""):
            continue
        frames, pairs = measure(load, flags.pairs)
        mean, low, high = interval(pairs)
        missed |= high >= MAX_SHARE and not flags.quick
        shown = {
            "load": name,
            **load._asdict(),
            "frames": len(frames),
            "mean_share": round(mean, 5),
            "interval_95": [round(low, 5), round(high, 5)],
            "us_per_frame": round(statistics.median(u for _, u in pairs) / len(frames) * 1e6, 2),
            "cpu_s_with_and_without": [[round(c, 4), round(u, 4)] for c, u in pairs],
        }
        print(json.dumps(shown), flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
