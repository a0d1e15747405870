"""`python -m bench.replay.request_times`: the cost of the times of requests, as a share of the CPU.

As bench.replay, but the two schedulers differ in the times of requests: one gets frames with the times that a
worker sends, checks and keeps them; the other gets the same frames without, and keeps only the delay of each
report, as was done before.
"""

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
from typing import cast

from bench.replay.__main__ import LOADS, QUICK, interval, whole_us
from bench.replay.recording import Load, Replay, SubmittedPrompts, record
from bench.replay.sender import sending
from coordinator.scheduling.worker_load import Reported, WorkerLoad
from protos import worker_pb2 as pb
from protos.columns import TokenColumns, pack_tokens, unpack_tokens

MAX_SHARE = 0.02


class Side:
    """A scheduler that takes the recorded frames, with the times or without them."""

    def __init__(self, load: Load, *, timed: bool) -> None:
        """Issue the requests of the load."""
        self._replay = Replay(load, SubmittedPrompts())
        self.spent_ns = 0
        """CPU time of this thread in frames so far."""
        if not timed:
            (load_of_worker,) = self._replay.scheduler.loads
            load_of_worker.reported = Untimed(load_of_worker).reported  # type: ignore[method-assign]

    def take(self, number: int, raw: bytes) -> None:
        """Parse and deliver a frame as a stream does after gRPC."""
        begun_ns = time.thread_time_ns()
        self._replay.deliver(unpack_tokens(pb.FromWorker.FromString(raw).tokens, number))
        self.spent_ns += time.thread_time_ns() - begun_ns


class Untimed:
    """Keeps the delay of each report alone."""

    def __init__(self, load: WorkerLoad) -> None:
        self._delays_ns = load.request_times[-1].delays_ns

    def reported(self, columns: TokenColumns, arrival_ns: int, reported: Reported) -> None:
        """Record the delay of a frame."""
        del arrival_ns
        self._delays_ns.append((reported.ended_ns or reported.begun_ns) - columns.produced_ns)


def without_times(number: int, raw: bytes) -> bytes:
    """Pack a frame again without the times of its requests."""
    columns = unpack_tokens(pb.FromWorker.FromString(raw).tokens, number)
    bare = pack_tokens(columns._replace(times=None), number)
    return pb.FromWorker(tokens=bare).SerializeToString()


def compare(load: Load, frames: list[bytes], bare: list[bytes]) -> float:
    """Give every frame to both sides, in the other order each time; returns the cost in us per frame."""
    sides = (Side(load, timed=True), frames), (Side(load, timed=False), bare)
    gc.collect()
    gc.disable()
    try:
        for number in range(len(frames)):
            for side, own in sides if number % 2 else sides[::-1]:
                side.take(number, own[number])
    finally:
        gc.enable()
    return (sides[0][0].spent_ns - sides[1][0].spent_ns) / len(frames) / 1e3


def measure(load: Load, num_pairs: int) -> dict[str, object]:
    """Record a load, and replay it `num_pairs` times in each way; the first replays are dropped."""
    frames = asyncio.run(record(load))
    bare = [without_times(number, raw) for number, raw in enumerate(frames)]
    times_us, wholes_us = [], []
    with sending(frames) as address:
        for _ in range(num_pairs + 1):
            times_us.append(compare(load, frames, bare))
            wholes_us.append(whole_us(load, frames, address))
    whole = statistics.median(wholes_us[1:])
    mean, low, high = interval([spent / whole for spent in times_us[1:]])
    return {
        "frames": len(frames),
        "mean_share": round(mean, 5),
        "interval_95": [round(low, 5), round(high, 5)],
        "times_us_per_frame": [round(spent, 3) for spent in times_us[1:]],
        "whole_us_per_frame": [round(spent, 1) for spent in wholes_us[1:]],
    }


def main(argv: list[str]) -> int:
    """Measure every load; exit code 1 if an interval reaches beyond MAX_SHARE."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay.request_times", description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="replays of each side, at least 2")
    parser.add_argument("--load", help="only the load whose name begins with this")
    parser.add_argument("--quick", action="store_true", help="one small load, without a goal")
    flags = parser.parse_args(argv)
    missed = False
    for name, load in (QUICK if flags.quick else LOADS).items():
        if not name.startswith(flags.load or ""):
            continue
        shown = {"load": name, **load._asdict(), **measure(load, flags.pairs)}
        missed |= cast(list[float], shown["interval_95"])[1] >= MAX_SHARE and not flags.quick
        sys.stdout.write(f"{json.dumps(shown)}\n")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
