"""`python -m bench.replay.request_times`: the cost of the times of requests, as a share of the CPU.

As bench.replay, but the two schedulers differ in the times of requests: one gets frames with the times that a
worker sends, checks and keeps them; the other gets the same frames without, and keeps only the delay of each
report, as was done before.
"""

import asyncio
import gc
import sys
import time

from bench.replay.__main__ import in_turns, measure_loads
from bench.replay.recording import Load, Replay, SubmittedPrompts, record
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
        self._delays_ns.append((reported.done_call[1] or reported.first_call[1]) - columns.produced_ns)


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
    return in_turns(load, frames, num_pairs, "times_us_per_frame", lambda: compare(load, frames, bare))


def main(argv: list[str]) -> int:
    """Measure every load; exit code 1 if an interval reaches beyond MAX_SHARE."""
    return measure_loads(argv, "python -m bench.replay.request_times", __doc__, measure, MAX_SHARE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
