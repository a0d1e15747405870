"""What a coordinator may make of a message, written a second time from worker.proto alone."""

import struct
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from protos import worker_pb2 as pb
from tests.protos.seal import seal_tokens

# No machine's monotonic clock comes to more: 292 years.
MAX_NS = 2**63 - 1
VOCAB_SIZE = 201_088


@dataclass
class Held:
    """What one worker holds, and the answers as the accepted frames make them."""

    budget: int
    answers: dict[int, list[int]]
    """Tokens by request name; an ended request is no longer in it."""
    ended: dict[int, list[int]] = field(default_factory=dict)
    sequence: int = 0

    def take(self, serialized: bytes) -> bool:
        """Apply a message if it is a good frame of tokens; returns whether it is."""
        try:
            message = pb.FromWorker.FromString(serialized)
        except DecodeError:
            return False
        if message.WhichOneof("message") != "tokens" or not self._fits(message.tokens):
            return False
        names, rows, ends = self._read(message.tokens)
        for name, row in zip(names, rows, strict=True):
            self.answers[name] = self.answers[name] + row
        for end in ends:
            self.ended[names[end]] = self.answers.pop(names[end])
        self.sequence += 1
        return True

    def _fits(self, frame: pb.Tokens) -> bool:
        sealed = pb.Tokens()
        sealed.CopyFrom(frame)
        if frame.sequence != self.sequence or frame.digest != seal_tokens(sealed).digest:
            return False
        return frame.produced_ns <= MAX_NS and _columns_agree(frame) and self._may_be(*self._read(frame))

    def _may_be(self, names: list[int], rows: list[list[int]], ends: list[int]) -> bool:
        if len(set(names)) < len(names) or not set(names) <= set(self.answers):
            return False
        if any(not 0 <= token < VOCAB_SIZE for row in rows for token in row):
            return False
        if any(len(self.answers[n]) + len(row) > self.budget for n, row in zip(names, rows, strict=True)):
            return False
        return ends == sorted(set(ends)) and all(end < len(names) for end in ends)

    def _read(self, frame: pb.Tokens) -> tuple[list[int], list[list[int]], list[int]]:
        names = _ints("Q", frame.requests)
        counts = _ints("I", frame.counts) if frame.counts else [1] * len(names)
        tokens = iter(_ints("i", frame.tokens))
        rows = [[next(tokens) for _ in range(count)] for count in counts]
        return names, rows, _ints("I", frame.finished_rows)


def _columns_agree(frame: pb.Tokens) -> bool:
    num, odd = divmod(len(frame.requests), 8)
    if odd or len(frame.counts) not in (0, 4 * num) or len(frame.finished_rows) % 4:
        return False
    num_tokens = sum(_ints("I", frame.counts)) if frame.counts else num
    reasons = frame.finish_reasons
    return (
        len(frame.tokens) == 4 * num_tokens
        and 4 * len(reasons) == len(frame.finished_rows)
        and set(reasons) <= {1, 2}
    )


def _ints(kind: str, column: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(column) // struct.calcsize(kind)}{kind}", column))
