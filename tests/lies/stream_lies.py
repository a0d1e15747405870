"""Lies of a worker on the stream of a run: it is lost, and its requests continue on the honest worker."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np

from protos import worker_pb2 as pb
from protos.columns import TokenTimes, digest_of, pack_tokens, unpack_tokens
from tests.lies.lying_worker import BUDGET, LENGTH, SHORT_S, STOP, STOP_ID, VOCAB_SIZE, Lie, Row, Step, pack
from tests.lies.worker_lies import ESCAPE


def last(change: Callable[[Row], Row]) -> Callable[[list[Step]], list[Step]]:
    """Change the rows that end a request."""
    return lambda steps: [*steps[:-1], [change(row) for row in steps[-1]]]


def first_row(change: Callable[[Row], Row]) -> Callable[[list[Step]], list[Step]]:
    """Change the first row of the first frame."""
    return lambda steps: [[change(steps[0][0]), *steps[0][1:]], *steps[1:]] if steps[0] else steps


def tampered(**columns: Any) -> Callable[[list[bytes]], list[bytes]]:
    """Replace columns of an otherwise empty first frame."""
    return lambda frames: [pack([], 0, **columns), *frames]


def packed(change: Callable[[bytes], bytes]) -> Callable[[list[bytes]], list[bytes]]:
    """Change the packed columns of the first frame, under a right digest."""

    def changed(frames: list[bytes]) -> list[bytes]:
        columns = change(pb.FromWorker.FromString(frames[0]).tokens.packed)
        frame = pb.Tokens(packed=columns, digest=digest_of(columns))
        return [pb.FromWorker(tokens=frame).SerializeToString(), *frames[1:]]

    return changed


def ended_in_middle(steps: list[Step]) -> list[Step]:
    """End each answer by LENGTH before its last token."""
    return [steps[0], [row._replace(reason=LENGTH) for row in steps[1]], []]


def behind(steps: list[Step]) -> list[Step]:
    """Send a stop id without an end, and the rest of a longer answer in the next frame."""
    names = [row.name for row in steps[2]]
    return [*steps[:2], [Row(name, [STOP_ID]) for name in names], [Row(name, [5], STOP) for name in names]]


def timed_at(time_ns: int) -> Callable[[list[bytes]], list[bytes]]:
    """Give every frame, every begin and every end this time."""

    def timed(frame: bytes, is_first: bool) -> bytes:
        tokens = pb.FromWorker.FromString(frame).tokens
        # The number of the frame is the second of the header.
        sequence = int.from_bytes(tokens.packed[8:16], "little")
        columns = unpack_tokens(tokens, sequence)
        rows = list(range(len(columns.requests))) if is_first else []
        begins = [time_ns] * len(rows)
        times = TokenTimes(time_ns, rows, begins, begins, begins, [time_ns] * len(columns.finished_rows))
        told = pack_tokens(columns._replace(times=times), sequence)
        return pb.FromWorker(tokens=told).SerializeToString()

    return lambda frames: [timed(frame, number == 0) for number, frame in enumerate(frames)]


# A worker that goes on behind a stop id soon exceeds the budget of some answer.
BEHIND = f"tokens after a stop id|an answer beyond {BUDGET} tokens"
U4 = np.uint32
# What a worker sends in a run: it is lost with this reason, and its requests continue on the honest worker.
STREAM_LIES: dict[str, tuple[Lie, str]] = {
    "LENGTH below the budget": (Lie(steps=ended_in_middle), f"LENGTH at [0-9]+ of {BUDGET} tokens"),
    "LENGTH for STOP": (
        Lie(steps=last(lambda r: r._replace(reason=LENGTH))),
        f"LENGTH at [0-9]+ of {BUDGET}",
    ),
    "STOP on a token that is no stop id": (
        Lie(steps=last(lambda r: r._replace(tokens=[5], reason=STOP))),
        "its last token is no stop id",
    ),
    "STOP before the stop id": (
        Lie(steps=lambda s: [s[0], [row._replace(reason=STOP) for row in s[1]]]),
        "its last token is no stop id",
    ),
    "tokens behind a stop id, in one frame": (
        Lie(steps=last(lambda r: r._replace(tokens=[STOP_ID, 5, STOP_ID], reason=STOP))),
        BEHIND,
    ),
    "tokens behind a stop id, in the next frame": (Lie(steps=behind), BEHIND),
    "a stop id without an end": (
        Lie(steps=last(lambda r: Row(r.name, [STOP_ID])), patience_s=SHORT_S),
        "no token for",
    ),
    "a stop id as first token, without an end": (
        Lie(steps=first_row(lambda r: Row(r.name, [STOP_ID]))),
        "begins with a stop id",
    ),
    "STOP in a frame without its stop id": (
        Lie(steps=last(lambda r: Row(r.name, [], STOP))),
        "its last token is no stop id",
    ),
    "token -1": (Lie(steps=first_row(lambda r: Row(r.name, [-1]))), "outside the vocabulary"),
    "a token beyond the vocabulary": (
        Lie(steps=first_row(lambda r: Row(r.name, [VOCAB_SIZE]))),
        "outside the vocabulary",
    ),
    "more tokens than the budget": (
        Lie(steps=first_row(lambda r: Row(r.name, [5] * (BUDGET + 1)))),
        f"an answer beyond {BUDGET} tokens",
    ),
    "two rows of one request": (Lie(steps=lambda s: [[*s[0], s[0][0]], *s[1:]]), "two rows of one request"),
    "tokens after the end": (Lie(steps=lambda s: [*s, [Row(s[2][0].name, [5])]]), "does not hold"),
    "an end twice": (Lie(steps=lambda s: [*s, s[2]]), "does not hold"),
    "an older generation": (
        Lie(steps=first_row(lambda r: r._replace(name=(r.name - (1 << 32)) % 2**64))),
        "does not hold",
    ),
    "a request of the other worker": (
        Lie(steps=first_row(lambda r: r._replace(name=r.name ^ 1))),
        "does not hold",
    ),
    "a slot that does not exist": (
        Lie(steps=first_row(lambda r: r._replace(name=r.name | 0x7FFFFFFF))),
        "slot 2147483647 of",
    ),
    "finish reason 3": (Lie(steps=last(lambda r: r._replace(reason=3))), "unknown finish reason"),
    "finish reason 0": (Lie(steps=last(lambda r: r._replace(reason=0))), "unknown finish reason"),
    "the end of a row that does not exist": (
        Lie(frames=tampered(finished_rows=np.array([4], U4), finish_reasons=np.array([1], np.uint8))),
        "finished_rows not ascending below 0",
    ),
    "more counts than rows": (
        Lie(frames=tampered(counts=np.array([0, 0], U4))),
        "counts: 2 entries, expected 0",
    ),
    "tokens without rows": (
        Lie(frames=tampered(tokens=np.array([5], np.int32))),
        "tokens: 1 entries, expected 0",
    ),
    "a time beyond 2^63": (Lie(frames=tampered(produced_ns=2**64 - 1)), "the largest monotonic time"),
    "a time below 0": (
        Lie(frames=tampered(times=TokenTimes(-1, [], [], [], [], []))),
        "a time exceeds 9223372036854775807 ns",
    ),
    "times of a row that does not exist": (
        Lie(frames=tampered(times=TokenTimes(9, [0], [1], [1], [1], []))),
        "first rows not ascending below 0",
    ),
    "a time of an end that there is not": (
        Lie(frames=tampered(times=TokenTimes(9, [], [], [], [], [1]))),
        "times of 16 bytes for 0 finished rows",
    ),
    "a wrong digest": (
        Lie(frames=lambda f: [pb.FromWorker(tokens=pb.Tokens(packed=b"", digest=1)).SerializeToString(), *f]),
        "the digest is not that of the columns",
    ),
    "a frame cut short": (Lie(frames=packed(lambda columns: columns[:-1])), "bytes, expected"),
    "half a header": (Lie(frames=packed(lambda columns: columns[:20])), "shorter than the header"),
    "a frame left out": (Lie(frames=lambda f: f[1:]), "frame [0-9]+, expected [0-9]+"),
    "a frame twice": (Lie(frames=lambda f: [f[0], *f]), "frame [0-9]+, expected [0-9]+"),
    "frames in another order": (Lie(frames=lambda f: [f[1], f[0], f[2]]), "frame [0-9]+, expected [0-9]+"),
    "a message that does not parse": (Lie(frames=lambda _: [b"\xff\xff\xff"]), ""),
    "an empty message": (Lie(frames=lambda f: [b"", *f]), "unexpected message: None"),
    "opened twice": (
        Lie(frames=lambda f: [pb.FromWorker(opened=pb.Opened(run_id="lies")).SerializeToString(), *f]),
        "unexpected message: opened",
    ),
    "no token": (Lie(steps=lambda _: [], patience_s=SHORT_S), "no token for"),
    "no message": (
        Lie(steps=lambda _: [], pong=lambda _: None, patience_s=SHORT_S),
        "(silent|no token) for",
    ),
    "a pong to no ping": (Lie(pong=lambda p: pb.Pong(nonce=p.nonce + 99, worker_ns=9)), "without a ping"),
    "a clock beyond 2^63": (Lie(pong=lambda p: pb.Pong(nonce=p.nonce, worker_ns=2**64 - 1)), "worker_ns"),
    "a status with terminal escapes": (
        Lie(status=(grpc.StatusCode.UNAVAILABLE, f"engine {ESCAPE} died")),
        r"UNAVAILABLE: engine \?\[31m",
    ),
}
