"""`python -m bench.replay`: the cost of the checks of ends and answers, as a share of the coordinator's CPU.

One process gives each frame of a recorded stream to two schedulers, one with the checks and one without, and
times both; in turns with that it reads the stream and sends the prompts over gRPC, which is the whole.
LoadGen's time is not in it, so the share of a real coordinator is smaller than the printed one.
"""

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import cast

import numpy as np

from bench.flag_help import FlagFormatter
from bench.intervals import mean_interval
from bench.replay.recording import VOCAB_SIZE, Load, Replay, SubmittedPrompts, record, take
from bench.replay.sender import sending
from protos import worker_pb2 as pb
from protos.columns import FrameError, TokenIds, unpack_tokens

LOADS = {
    "held": Load(834, 417, (878, 1678), 2, is_server=True),
    "decode": Load(512, 256, (640, 1916), 1, is_server=False),
    "small": Load(16, 8, (878, 1678), 1, is_server=True),
}
QUICK = {"quick": Load(20, 8, (20, 40), 2, is_server=True)}
MAX_SHARE = 0.01
# An interval needs two values.
MIN_PAIRS = 2


class Side:
    """A scheduler that takes the recorded frames, with the checks or without them."""

    def __init__(self, load: Load, *, checked: bool) -> None:
        """Issue the requests of the load."""
        self._checked = checked
        self._replay = Replay(load, SubmittedPrompts())
        self.spent_ns = 0
        """CPU time of this thread in frames and flushes so far."""
        if not checked:
            scheduler = self._replay.scheduler
            scheduler.table._rules = None
            vars(scheduler.degenerate)["add"] = _check_nothing

    def take(self, number: int, raw: bytes) -> None:
        """Parse and deliver a frame as a stream does after gRPC."""
        begun_ns = time.thread_time_ns()
        columns = unpack_tokens(pb.FromWorker.FromString(raw).tokens, number)
        if not self._checked:
            check_vocabulary(columns.tokens)
        self._replay.deliver(columns)
        self.spent_ns += time.thread_time_ns() - begun_ns


def check_vocabulary(tokens: TokenIds) -> None:
    """Check the vocabulary alone, as was done with every frame before the rules of ends."""
    if len(tokens) and np.maximum.reduce(tokens.view(np.uint32)) >= VOCAB_SIZE:
        raise FrameError("a token id outside the vocabulary")


def _check_nothing(*_: object) -> None:
    """Take the place of a check that is left out."""


def compare(load: Load, frames: list[bytes]) -> float:
    """Give every frame to both sides, in the other order each time.

    Returns:
        CPU time of the checks in us per frame.
    """
    sides = Side(load, checked=True), Side(load, checked=False)
    gc.collect()
    gc.disable()
    try:
        for number, raw in enumerate(frames):
            for side in sides if number % 2 else sides[::-1]:
                side.take(number, raw)
    finally:
        gc.enable()
    return (sides[0].spent_ns - sides[1].spent_ns) / len(frames) / 1e3


def whole_us(load: Load, frames: list[bytes], address: str) -> float:
    """Read all frames and send all prompts over gRPC, with the checks.

    Returns:
        The process's CPU time in us per frame.
    """
    gc.collect()
    gc.disable()
    begun_s = time.process_time()
    asyncio.run(take(load, address))
    spent_s = time.process_time() - begun_s
    gc.enable()
    return spent_s / len(frames) * 1e6


def measure(load: Load, num_pairs: int) -> dict[str, object]:
    """Record a load, and replay it `num_pairs` times in each way, in turns; the first replays are dropped."""
    frames = asyncio.run(record(load))
    return in_turns(load, frames, num_pairs, "checks_us_per_frame", lambda: compare(load, frames))


def in_turns(
    load: Load, frames: list[bytes], num_pairs: int, name: str, cost_us: Callable[[], float]
) -> dict[str, object]:
    """Measure a cost and the whole in turns; the first of each is dropped.

    Args:
        load: What was recorded.
        frames: Its frames.
        num_pairs: How often.
        name: Of the costs in the result.
        cost_us: Measures the cost once, in us per frame.
    """
    costs_us, wholes_us = [], []
    with sending(frames) as address:
        for _ in range(num_pairs + 1):
            costs_us.append(cost_us())
            wholes_us.append(whole_us(load, frames, address))
    whole = statistics.median(wholes_us[1:])
    mean, low, high = mean_interval([spent / whole for spent in costs_us[1:]])
    return {
        "frames": len(frames),
        "mean_share": round(mean, 5),
        "interval_95": [round(low, 5), round(high, 5)],
        name: [round(spent, 3) for spent in costs_us[1:]],
        "whole_us_per_frame": [round(spent, 1) for spent in wholes_us[1:]],
    }


def main(argv: list[str]) -> int:
    """Measure every load; exit code 1 if an interval reaches beyond MAX_SHARE."""
    return measure_loads(argv, "python -m bench.replay", __doc__, measure, MAX_SHARE)


def measure_loads(
    argv: list[str],
    prog: str,
    text: str | None,
    measure_load: Callable[[Load, int], dict[str, object]],
    max_share: float,
) -> int:
    """Measure the loads that the flags name; exit code 1 if an interval reaches beyond `max_share`."""
    parser = argparse.ArgumentParser(formatter_class=FlagFormatter, prog=prog, description=text)
    parser.add_argument("--pairs", type=int, default=20, help="replays of each side, at least 2")
    parser.add_argument("--load", help="only the load whose name begins with this")
    parser.add_argument("--quick", action="store_true", help="one small load, without a goal")
    flags = parser.parse_args(argv)
    if flags.pairs < MIN_PAIRS:
        parser.error(f"--pairs: {flags.pairs} is below {MIN_PAIRS}")
    missed = False
    for name, load in (QUICK if flags.quick else LOADS).items():
        if not name.startswith(flags.load or ""):
            continue
        shown = {"load": name, **load._asdict(), **measure_load(load, flags.pairs)}
        missed |= cast(list[float], shown["interval_95"])[1] >= max_share and not flags.quick
        print(json.dumps(shown), flush=True)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
