"""A second implementation of the coordinator's frame rules, written from worker.proto alone."""

import struct
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from protos import worker_pb2 as pb
from tests.protos.by_hand import Frame, read_tokens, seal

# No machine's monotonic clock comes to more: 292 years.
MAX_NS = 2**63 - 1
VOCAB_SIZE = 201_088
STOP_ID = 200_002
STOP, LENGTH = 1, 2


@dataclass
class Held:
    """The requests of one worker and the answers built from its accepted frames."""

    budget: int
    answers: dict[int, list[int]]
    """Tokens by request name; finished requests are removed."""
    ended: dict[int, list[int]] = field(default_factory=dict)
    sequence: int = 0

    def take(self, serialized: bytes) -> bool:
        """Apply a message if it is a good frame of tokens; returns whether it is."""
        try:
            message = pb.FromWorker.FromString(serialized)
        except DecodeError:
            return False
        if message.WhichOneof("message") != "tokens":
            return False
        try:
            frame = read_tokens(message.tokens)
        except ValueError:
            return False
        if not _is_sealed(message.tokens) or not self._fits(frame):
            return False
        names, rows, ends = self._read(frame)
        for name, row in zip(names, rows, strict=True):
            self.answers[name] = self.answers[name] + row
        for end in ends:
            self.ended[names[end]] = self.answers.pop(names[end])
        self.sequence += 1
        return True

    def _fits(self, frame: Frame) -> bool:
        if frame.sequence != self.sequence or frame.produced_ns > MAX_NS:
            return False
        if not _columns_agree(**frame.columns) or not self._may_be(*self._read(frame)):
            return False
        names, rows, ends = self._read(frame)
        reasons = dict(zip(ends, frame.columns["finish_reasons"], strict=True))
        return all(
            self._may_end(n, row, reasons.get(i)) for i, (n, row) in enumerate(zip(names, rows, strict=True))
        )

    def _may_end(self, name: int, row: list[int], reason: int | None) -> bool:
        """Whether an answer may begin or end with a row; in between, any token may come (reason None)."""
        whole = self.answers[name] + row
        if reason is None:
            return bool(self.answers[name]) or not row or _num_valid(row[:1]) == 1
        if reason == LENGTH and len(whole) < self.budget:
            return False
        ends_at_stop = whole[-1:] == [STOP_ID]
        if _num_valid(whole) < len(whole) - ends_at_stop:
            return False
        return reason == LENGTH or ends_at_stop or not whole

    def kept(self) -> dict[int, list[int]]:
        """Return what is kept of each unfinished answer when the worker is lost."""
        return {name: tokens[: _num_valid(tokens)] for name, tokens in self.answers.items()}

    def _may_be(self, names: list[int], rows: list[list[int]], ends: list[int]) -> bool:
        if len(set(names)) < len(names) or not set(names) <= set(self.answers):
            return False
        if any(len(self.answers[n]) + len(row) > self.budget for n, row in zip(names, rows, strict=True)):
            return False
        return ends == sorted(set(ends)) and all(end < len(names) for end in ends)

    def _read(self, frame: Frame) -> tuple[list[int], list[list[int]], list[int]]:
        columns = frame.columns
        names = _ints("Q", columns["requests"])
        counts = _ints("I", columns["counts"]) or [1] * len(names)
        tokens = iter(_ints("i", columns["tokens"]))
        rows = [[next(tokens) for _ in range(count)] for count in counts]
        return names, rows, _ints("I", columns["finished_rows"])


def _num_valid(tokens: list[int]) -> int:
    """Count the tokens before the first stop id or id outside the vocabulary."""
    bad = (k for k, token in enumerate(tokens) if token == STOP_ID or not 0 <= token < VOCAB_SIZE)
    return next(bad, len(tokens))


def _is_sealed(frame: pb.Tokens) -> bool:
    return frame.digest == seal(pb.Tokens(packed=frame.packed)).digest


def _columns_agree(
    requests: bytes, counts: bytes, tokens: bytes, finished_rows: bytes, finish_reasons: bytes, times: bytes
) -> bool:
    num, odd = divmod(len(requests), 8)
    if odd or len(counts) not in (0, 4 * num) or len(finished_rows) % 4 or len(times) % 8:
        return False
    num_tokens = sum(_ints("I", counts)) if counts else num
    return (
        len(tokens) == 4 * num_tokens
        and 4 * len(finish_reasons) == len(finished_rows)
        and set(finish_reasons) <= {1, 2}
        and _times_agree(_ints("q", times), num, len(finish_reasons))
    )


def _times_agree(times: list[int], num_rows: int, num_ends: int) -> bool:
    if not times:
        return True
    num_begins, odd = divmod(len(times) - 1 - num_ends, 4)
    rows = times[1 : 1 + max(num_begins, 0)]
    ascending = rows == sorted(set(rows)) and all(row < num_rows for row in rows)
    return num_begins >= 0 and not odd and ascending and min(times) >= 0


def _ints(kind: str, column: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(column) // struct.calcsize(kind)}{kind}", column))
