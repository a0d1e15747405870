"""Program that replays a load in pieces; bench.replay.checkouts runs it in each checkout.

Arguments: the load as JSON. It prints the number of frames; for each line that it reads it takes the next
FRAMES_PER_PIECE frames and prints how many there were and the CPU time of its thread in ns.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator

from bench.replay.recording import Load, Replay, SubmittedPrompts, record
from protos import worker_pb2 as pb
from protos.columns import unpack_tokens

FRAMES_PER_PIECE = 50


def pieces(load: Load, frames: list[bytes]) -> Iterator[tuple[int, int]]:
    """Replay the frames again and again; yields the frames of each piece and its CPU time in ns."""
    while True:
        replay = Replay(load, SubmittedPrompts())
        for begin in range(0, len(frames), FRAMES_PER_PIECE):
            piece = frames[begin : begin + FRAMES_PER_PIECE]
            begun_ns = time.thread_time_ns()
            for number, raw in enumerate(piece, begin):
                replay.deliver(unpack_tokens(pb.FromWorker.FromString(raw).tokens, number))
            yield len(piece), time.thread_time_ns() - begun_ns


def main(argv: list[str]) -> int:
    """Record, then replay a piece per line of standard input."""
    load = Load._make(tuple(value) if isinstance(value, list) else value for value in json.loads(argv[0]))
    frames = asyncio.run(record(load))
    _tell(len(frames))
    gc.collect()
    gc.freeze()
    replayed = pieces(load, frames)
    for _ in sys.stdin:
        _tell(*next(replayed))
    return 0


def _tell(*numbers: int) -> None:
    sys.stdout.write(" ".join(map(str, numbers)) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
