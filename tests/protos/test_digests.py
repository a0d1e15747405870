"""Digests and sequence: columns that would pass every bound and are not those packed are refused."""

import numpy as np
import pytest

from protos import worker_pb2 as pb
from protos.columns import (
    FrameError,
    PromptColumns,
    TokenColumns,
    pack_submit,
    pack_tokens,
    unpack_submit,
    unpack_tokens,
)
from tests.protos.by_hand import read_submit, read_tokens, submit_of, tokens_of

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
    return pack_tokens(columns, sequence=sequence)


def test_messages_carry_the_digest_that_the_proto_describes() -> None:
    """XXH3-64 over the head and the columns, all little-endian."""
    assert submit_of(**read_submit(submit())) == submit()
    frame = read_tokens(tokens(4))
    assert tokens_of(8, 4, **frame.columns) == tokens(4)


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
    changed = submit_of(**(read_submit(submit()) | {column: CHANGED_SUBMIT[column]}))
    # Its bounds do hold: with a digest of its own it is taken.
    assert len(unpack_submit(changed).requests) == 2
    changed.digest = submit().digest
    with pytest.raises(FrameError, match=r"^submit: the digest is not that of the columns$"):
        unpack_submit(changed)


@pytest.mark.parametrize("column", CHANGED_TOKENS)
def test_a_changed_column_of_a_frame_is_refused(column: str) -> None:
    """A column that differs in a bit but keeps every bound is told by the digest alone."""
    changed = tokens_of(8, 0, **(read_tokens(tokens(0)).columns | {column: CHANGED_TOKENS[column]}))
    assert len(unpack_tokens(changed, 0).requests) == 3
    changed.digest = tokens(0).digest
    with pytest.raises(FrameError, match=r"^tokens: the digest is not that of the columns$"):
        unpack_tokens(changed, 0)


def test_a_changed_time_of_a_frame_is_refused() -> None:
    """The time of production is under the digest too."""
    frame = tokens_of(9, 0, **read_tokens(tokens(0)).columns)
    frame.digest = tokens(0).digest
    with pytest.raises(FrameError, match="the digest"):
        unpack_tokens(frame, 0)


def test_no_digest_is_a_wrong_one() -> None:
    """A message without its digest is refused."""
    frame, prompts = tokens(0), submit()
    frame.digest = prompts.digest = 0
    with pytest.raises(FrameError, match="the digest"):
        unpack_tokens(frame, 0)
    with pytest.raises(FrameError, match="the digest"):
        unpack_submit(prompts)


def test_columns_that_trade_bytes_are_refused() -> None:
    """Bytes that move from one column's end to the next one's start make another digest."""
    whole, moved = tokens_of(requests=b"12", counts=b"3"), tokens_of(requests=b"1", counts=b"23")
    assert whole.digest != moved.digest
    assert submit_of(max_new_tokens=b"12", produced=b"3") != submit_of(max_new_tokens=b"1", produced=b"23")


@pytest.mark.parametrize(
    "arriving, at_fault",
    [
        ([0, 2], "frame 2, expected 1"),  # one is missing
        ([0, 1, 1], "frame 1, expected 2"),  # one came twice
        ([1, 0], "frame 1, expected 0"),  # two changed places
        ([2**64 - 1], "frame 18446744073709551615, expected 0"),
    ],
)
def test_a_frame_out_of_sequence_is_refused(arriving: list[int], at_fault: str) -> None:
    """A frame that is missing, doubled or early is named by both numbers; those before it pass."""
    with pytest.raises(FrameError, match=rf"^tokens: {at_fault}$"):
        for place, sequence in enumerate(arriving):
            unpack_tokens(tokens(sequence), place)


def test_a_renumbered_frame_is_refused() -> None:
    """The number is under the digest: a frame given the missing one's number does not take its place."""
    frame = tokens_of(8, 1, **read_tokens(tokens(2)).columns)
    frame.digest = tokens(2).digest
    with pytest.raises(FrameError, match="the digest"):
        unpack_tokens(frame, 1)
