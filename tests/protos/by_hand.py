"""Messages packed and read by hand: the layout is worker.proto's, written a second time."""

import itertools
import struct
from typing import NamedTuple, TypeVar

import xxhash

from protos import worker_pb2 as pb

SUBMIT = ("requests", "prompt_lens", "prompt_tokens", "max_new_tokens", "produced")
TOKENS = ("requests", "counts", "tokens", "finished_rows", "finish_reasons", "times")
_Packed = TypeVar("_Packed", pb.Submit, pb.Tokens)


class Frame(NamedTuple):
    """What a frame of tokens holds."""

    produced_ns: int
    sequence: int
    columns: dict[str, bytes]


def submit_of(**columns: bytes) -> pb.Submit:
    """Pack and seal a Submit of these columns, whatever they hold; the others are empty."""
    return seal(pb.Submit(packed=_join(b"", [columns.pop(name, b"") for name in (*SUBMIT, "")])))


def tokens_of(produced_ns: int = 0, sequence: int = 0, **columns: bytes) -> pb.Tokens:
    """Pack and seal a frame of these columns, whatever they hold; the others are empty."""
    head = struct.pack("<QQ", produced_ns, sequence)
    return seal(pb.Tokens(packed=_join(head, [columns.pop(name, b"") for name in TOKENS])))


def seal(message: _Packed) -> _Packed:
    """Give a message the digest of what it carries."""
    message.digest = xxhash.xxh3_64_intdigest(message.packed)
    return message


def read_submit(submit: pb.Submit) -> dict[str, bytes]:
    """Take a Submit apart.

    Raises:
        ValueError: The head does not describe what follows.
    """
    *columns, _ = _cut(submit.packed)
    return dict(zip(SUBMIT, columns, strict=True))


def read_tokens(frame: pb.Tokens) -> Frame:
    """Take a frame apart.

    Raises:
        ValueError: The head does not describe what follows.
    """
    columns = _cut(frame.packed[16:])
    produced_ns, sequence = struct.unpack_from("<QQ", frame.packed)
    return Frame(produced_ns, sequence, dict(zip(TOKENS, columns, strict=True)))


def _join(head: bytes, columns: list[bytes]) -> bytes:
    return head + struct.pack("<6I", *map(len, columns)) + b"".join(columns)


def _cut(packed: bytes) -> list[bytes]:
    if len(packed) < 24:
        raise ValueError(f"{len(packed)} bytes are no head")
    sizes = struct.unpack_from("<6I", packed)
    ends = [24 + sum(sizes[:n]) for n in range(7)]
    if ends[-1] != len(packed):
        raise ValueError(f"{len(packed)} bytes where {ends[-1]} belong")
    return [packed[begin:end] for begin, end in itertools.pairwise(ends)]
