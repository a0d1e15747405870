"""Digests and sequence: columns that would pass every bound and are not those packed are refused."""

import numpy as np
import pytest

from protos import worker_pb2 as pb
from protos.frames import (
    FrameError,
    PromptColumns,
    TokenColumns,
    digest_of,
    pack_submit,
    pack_tokens,
    unpack_submit,
    unpack_tokens,
)
from tests.protos.seal import seal_submit, seal_tokens

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH


def u4(*values: int) -> bytes:
    """Pack little-endian uint32 by hand."""
    return b"".join(value.to_bytes(4, "little") for value in values)


def u8(*values: int) -> bytes:
    """Pack little-endian uint64 by hand."""
    return b"".join(value.to_bytes(8, "little") for value in values)


def submit() -> pb.Submit:
    """Pack prompts [11, 12] and [13, 14, 15], the last token of the second produced elsewhere."""
    return pack_submit(
        PromptColumns(
            requests=np.array([1, 2], np.uint64),
            prompt_lens=np.array([2, 3], np.uint32),
            prompt_tokens=np.array([11, 12, 13, 14, 15], np.int32),
            max_new_tokens=np.array([5, 6], np.uint32),
            produced=np.array([0, 1], np.uint32),
        )
    )


def tokens(sequence: int) -> pb.Tokens:
    """Pack a frame of three requests with 2, 0 and 1 tokens, rows 1 and 2 ending."""
    columns = TokenColumns(
        requests=np.array([1, 2, 3], np.uint64),
        counts=np.array([2, 0, 1], np.uint32),
        tokens=np.array([21, 22, 23], np.int32),
        finished_rows=np.array([1, 2], np.uint32),
        finish_reasons=np.array([STOP, LENGTH], np.uint8),
        produced_ns=8,
    )
    return pack_tokens(columns, packed_ns=9, sequence=sequence)


def test_messages_carry_the_digest_that_the_proto_describes() -> None:
    """XXH3-64 over the columns' sizes, a frame's two numbers, and the columns, all little-endian."""
    assert seal_submit(pb.Submit.FromString(submit().SerializeToString())).digest == submit().digest
    assert seal_tokens(pb.Tokens.FromString(tokens(4).SerializeToString())).digest == tokens(4).digest


# One bit of one column, but for lengths, counts and reasons: there one bit alone already breaks a bound.
CHANGED_SUBMIT = {
    "requests": u8(1, 3),
    "prompt_lens": u4(3, 2),
    "prompt_tokens": u4(11, 12, 13, 14, 14),
    "max_new_tokens": u4(5, 7),
    "produced": u4(1, 1),
}
CHANGED_TOKENS = {
    "requests": u8(1, 2, 0x8000000000000003),
    "counts": u4(1, 0, 2),
    "tokens": u4(21, 22, 22),
    "finished_rows": u4(0, 2),
    "finish_reasons": bytes([STOP, STOP]),
}


@pytest.mark.parametrize("column", CHANGED_SUBMIT)
def test_a_changed_column_of_a_submit_is_refused(column: str) -> None:
    """A column that differs in a bit but keeps every bound is told by the digest alone."""
    changed = submit()
    setattr(changed, column, CHANGED_SUBMIT[column])
    with pytest.raises(FrameError, match=r"^submit: the digest is not that of the columns$"):
        unpack_submit(changed)
    # Its bounds do hold: with a digest of its own it is taken.
    assert len(unpack_submit(seal_submit(changed)).requests) == 2


@pytest.mark.parametrize("column", CHANGED_TOKENS)
def test_a_changed_column_of_a_frame_is_refused(column: str) -> None:
    """A column that differs in a bit but keeps every bound is told by the digest alone."""
    changed = tokens(0)
    setattr(changed, column, CHANGED_TOKENS[column])
    with pytest.raises(FrameError, match=r"^tokens: the digest is not that of the columns$"):
        unpack_tokens(changed, 0)
    assert len(unpack_tokens(seal_tokens(changed), 0).requests) == 3


@pytest.mark.parametrize("number, value", [("produced_ns", 9), ("digest", 0)])
def test_a_changed_number_of_a_frame_is_refused(number: str, value: int) -> None:
    """The time of production is under the digest too, and no digest at all is a wrong one."""
    frame = tokens(0)
    setattr(frame, number, value)
    with pytest.raises(FrameError, match="the digest"):
        unpack_tokens(frame, 0)


def test_columns_that_trade_bytes_are_refused() -> None:
    """Bytes that move from one column's end to the next one's start make another digest."""
    whole, moved = (b"\x01\x02", b"\x03"), (b"\x01", b"\x02\x03")
    none = (b"", b"", b"")
    assert digest_of((*whole, *none)) != digest_of((*moved, *none))
    assert digest_of((*none, *whole)) != digest_of((*none, *moved))


@pytest.mark.parametrize(
    "arriving, at_fault",
    [
        ([0, 2], "frame 2 where 1 belongs"),  # one is missing
        ([0, 1, 1], "frame 1 where 2 belongs"),  # one came twice
        ([1, 0], "frame 1 where 0 belongs"),  # two changed places
        ([2**64 - 1], "frame 18446744073709551615 where 0 belongs"),
    ],
)
def test_a_frame_out_of_sequence_is_refused(arriving: list[int], at_fault: str) -> None:
    """A frame that is missing, doubled or early is named by both numbers; those before it pass."""
    with pytest.raises(FrameError, match=rf"^tokens: {at_fault}$"):
        for place, sequence in enumerate(arriving):
            unpack_tokens(tokens(sequence), place)


def test_a_renumbered_frame_is_refused() -> None:
    """The number is under the digest: a frame given the missing one's number does not take its place."""
    frame = tokens(2)
    frame.sequence = 1
    with pytest.raises(FrameError, match="the digest"):
        unpack_tokens(frame, 1)
