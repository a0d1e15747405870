"""The wire's columns: what is packed comes back, and nothing out of bounds gets through."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from protos import worker_pb2 as pb
from protos.columns import (
    FrameError,
    PromptColumns,
    TokenColumns,
    TokenTimes,
    pack_submit,
    pack_tokens,
    slots_of,
    unpack_requests,
    unpack_submit,
    unpack_tokens,
)
from tests.protos.by_hand import read_submit, read_tokens, submit_of, tokens_of

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
UINT32_MAX = 0xFFFFFFFF


def u4(*values: int) -> bytes:
    """Pack little-endian uint32 by hand."""
    return b"".join(value.to_bytes(4, "little") for value in values)


def u8(*values: int) -> bytes:
    """Pack little-endian uint64 by hand."""
    return b"".join(value.to_bytes(8, "little") for value in values)


def submit(**changed: bytes) -> pb.Submit:
    """Make a good Submit of two requests, prompts [11] and [12, 13, 14], change columns, and seal it."""
    columns = {
        "requests": u8(1, 2),
        "prompt_lens": u4(1, 3),
        "prompt_tokens": u4(11, 12, 13, 14),
        "max_new_tokens": u4(5, 6),
        "produced": u4(0, 2),
    }
    return submit_of(**(columns | changed))


def tokens(**changed: bytes) -> pb.Tokens:
    """Make the first frame, of requests with 2, 0 and 1 tokens, rows 1 and 2 ending; change columns; seal."""
    columns = {
        "requests": u8(1, 2, 3),
        "counts": u4(2, 0, 1),
        "tokens": u4(21, 22, 23),
        "finished_rows": u4(1, 2),
        "finish_reasons": bytes([STOP, LENGTH]),
    }
    return tokens_of(8, 0, **(columns | changed))


def test_a_submit_is_little_endian_columns() -> None:
    """Two prompts pack into the bytes that the proto's comments spell out: slot low, generation high."""
    packed = pack_submit(
        PromptColumns(
            requests=np.array([3 | 7 << 32, 258], np.uint64),
            prompt_lens=np.array([1, 2], np.uint32),
            prompt_tokens=np.array([200_002, 1, 0], np.int32),
            max_new_tokens=np.array([10_240, 1], np.uint32),
            produced=np.array([0, 1], np.uint32),
        )
    )
    columns = [
        b"\x03\0\0\0\x07\0\0\0" + b"\x02\x01\0\0\0\0\0\0",
        b"\x01\0\0\0\x02\0\0\0",
        # 200,002 = 0x030d42
        b"\x42\x0d\x03\0" + b"\x01\0\0\0" + b"\0\0\0\0",
        # 10,240 = 0x2800
        b"\x00\x28\0\0\x01\0\0\0",
        b"\0\0\0\0\x01\0\0\0",
    ]
    sizes = b"\x10\0\0\0" + b"\x08\0\0\0" + b"\x0c\0\0\0" + b"\x08\0\0\0" * 2
    assert packed.packed == sizes + bytes(4) + b"".join(columns)


def test_a_token_frame_is_little_endian_columns() -> None:
    """A frame packs into the bytes that the proto's comments spell out, with one byte per reason."""
    columns = TokenColumns(
        requests=np.array([1 << 32, 5], np.uint64),
        counts=np.array([0, 2], np.uint32),
        tokens=np.array([258, 3], np.int32),
        finished_rows=np.array([0], np.uint32),
        finish_reasons=np.array([LENGTH], np.uint8),
        produced_ns=77,
    )
    packed = pack_tokens(columns, sequence=4)
    columns_bytes = [
        b"\0\0\0\0\x01\0\0\0" + b"\x05\0\0\0\0\0\0\0",
        b"\0\0\0\0\x02\0\0\0",
        b"\x02\x01\0\0\x03\0\0\0",
        b"\0\0\0\0",
        b"\x02",
    ]
    numbers = b"\x4d" + bytes(7) + b"\x04" + bytes(7)
    sizes = b"\x10\0\0\0" + b"\x08\0\0\0" * 2 + b"\x04\0\0\0" + b"\x01\0\0\0"
    assert packed.packed == numbers + sizes + bytes(4) + b"".join(columns_bytes)


def i8(*values: int) -> bytes:
    """Pack little-endian int64 by hand."""
    return b"".join(value.to_bytes(8, "little", signed=True) for value in values)


def test_times_are_the_last_column() -> None:
    """Sending, the row that begins, its three times, and the end of row 2; without times there is no byte."""
    rows = tokens_of(
        8, 0, requests=u8(1, 2, 3), tokens=u4(4, 5, 6), finished_rows=u4(2), finish_reasons=bytes([STOP])
    )
    assert unpack_tokens(rows, 0).times is None
    timed = tokens_of(8, 0, **read_tokens(rows).columns | {"times": i8(90, 1, 10, 20, 30, 80)})
    assert len(timed.packed) == len(rows.packed) + 6 * 8
    assert unpack_tokens(timed, 0).times == TokenTimes(90, [1], [10], [20], [30], [80])
    assert pack_tokens(unpack_tokens(timed, 0), 0) == timed


@pytest.mark.parametrize(
    "times, fault",
    [
        (i8(9, 0, 1, 2, 3), "times of 40 bytes for 2 finished rows"),  # no last times
        (i8(9, 0, 1, 2, 3, 4), "times of 48 bytes for 2 finished rows"),
        (i8(9, 4, 5) + b"\0", "times of 25 bytes for 2 finished rows"),
        (i8(9), "times of 8 bytes for 2 finished rows"),
        (i8(9, 3, 1, 2, 3, 4, 5), "first rows not ascending below 3"),
        (i8(9, 1, 0, 1, 1, 2, 2, 3, 3, 4, 5), "first rows not ascending below 3"),
        (i8(9, 1, 1, 1, 1, 2, 2, 3, 3, 4, 5), "first rows not ascending below 3"),
        (i8(9, 4, -1), "a time exceeds 9223372036854775807 ns, the largest monotonic time"),
        (i8(9, -1, 1, 2, 3, 4, 5), "a time exceeds 9223372036854775807 ns, the largest monotonic time"),
    ],
)
def test_times_out_of_bounds_are_refused(times: bytes, fault: str) -> None:
    """Times of another length, rows out of order or range, and times beyond 63 bits are named."""
    with pytest.raises(FrameError, match=f"^tokens: {fault}$"):
        unpack_tokens(tokens(times=times), 0)


def test_empty_columns_stand_for_what_is_common() -> None:
    """No `produced` column means nothing produced; no `counts` column means one token a row."""
    one = np.ones(1, np.uint32)
    prompts = PromptColumns(np.ones(1, np.uint64), one, np.array([7], np.int32), one, np.zeros(1, np.uint32))
    assert read_submit(pack_submit(prompts))["produced"] == b""
    assert unpack_submit(submit(produced=b"")).produced.tolist() == [0, 0]
    step = TokenColumns(
        np.ones(1, np.uint64), None, np.array([7], np.int32), one[:0], np.zeros(0, np.uint8), 5
    )
    assert read_tokens(pack_tokens(step, 0)).columns["counts"] == b""
    assert unpack_tokens(tokens(counts=b""), 0).counts is None


def test_a_slot_is_a_names_lower_half() -> None:
    """Slot and generation of 0xFFFFFFFF share one 64-bit name without touching each other."""
    names = np.array([0x00000000FFFFFFFF, 0xFFFFFFFF00000000, 0x0000000200000001], np.uint64)
    assert slots_of(names).tolist() == [UINT32_MAX, 0, 1]


@pytest.mark.parametrize("column", ["requests", "prompt_lens", "prompt_tokens", "max_new_tokens", "produced"])
@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: c[:-4], lambda c: c + u4(1), lambda c: c + b"\0"]
)
def test_a_submit_column_of_another_length_is_refused(column: str, change: Callable[[bytes], bytes]) -> None:
    """A column cut or lengthened by a byte or by four raises FrameError, whichever column it is."""
    good = read_submit(submit())[column]
    with pytest.raises(FrameError):
        unpack_submit(submit(**{column: change(good)}))


@pytest.mark.parametrize("column", ["requests", "counts", "tokens", "finished_rows", "finish_reasons"])
@pytest.mark.parametrize(
    "change", [lambda c: c[:-1], lambda c: c[:-4], lambda c: c + u4(2), lambda c: c + b"\1"]
)
def test_a_token_column_of_another_length_is_refused(column: str, change: Callable[[bytes], bytes]) -> None:
    """A column cut or lengthened by a byte or by four raises FrameError, whichever column it is."""
    good = read_tokens(tokens()).columns[column]
    with pytest.raises(FrameError):
        unpack_tokens(tokens(**{column: change(good)}), 0)


@pytest.mark.parametrize(
    "column, size, itemsize",
    [("requests", 7, 8), ("prompt_lens", 3, 4), ("prompt_tokens", 5, 4), ("max_new_tokens", 9, 4)],
)
def test_a_torn_column_is_named(column: str, size: int, itemsize: int) -> None:
    """The error names the column, its bytes and the size they are no multiple of."""
    with pytest.raises(FrameError, match=rf"^{column}: {size} bytes is not a multiple of {itemsize}$"):
        unpack_submit(submit(**{column: bytes(size)}))


def test_wrong_sums_are_named() -> None:
    """Lengths that do not add up to the tokens are refused with both figures."""
    with pytest.raises(FrameError, match=r"^prompt_tokens: 4 entries, expected 5$"):
        unpack_submit(submit(prompt_lens=u4(2, 3)))
    with pytest.raises(FrameError, match=r"^tokens: 3 entries, expected 4$"):
        unpack_tokens(tokens(counts=u4(2, 1, 1)), 0)
    with pytest.raises(FrameError, match=r"^tokens: 2 entries, expected 3$"):
        unpack_tokens(tokens(counts=b"", tokens=u4(21, 22)), 0)


@pytest.mark.parametrize(
    "bad",
    [
        # 2**32 - 1 + 5 = 4 modulo 2**32, and there are 4 tokens.
        lambda: unpack_submit(submit(prompt_lens=u4(UINT32_MAX, 5))),
        lambda: unpack_submit(submit(prompt_lens=u4(UINT32_MAX, UINT32_MAX))),
        # 2**32 - 1 + 2 + 2 = 3 modulo 2**32, and there are 3 tokens.
        lambda: unpack_tokens(tokens(counts=u4(UINT32_MAX, 2, 2)), 0),
        lambda: unpack_tokens(tokens(counts=u4(UINT32_MAX, UINT32_MAX, UINT32_MAX)), 0),
        lambda: unpack_tokens(tokens(finished_rows=u4(1, UINT32_MAX)), 0),
    ],
)
def test_huge_counts_are_refused_without_memory(bad: Callable[[], object]) -> None:
    """Counts of 0xFFFFFFFF neither wrap around nor allocate: less than 1 MiB is touched."""
    tracemalloc.start()
    try:
        with pytest.raises(FrameError):
            bad()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1 << 20


@pytest.mark.parametrize("rows", [(2, 1), (1, 1), (0, 3), (3, 4), (0, UINT32_MAX)])
def test_finished_rows_ascend_below_the_number_of_rows(rows: tuple[int, int]) -> None:
    """Unordered, duplicated or too large finished rows of a frame of three are refused."""
    with pytest.raises(FrameError, match=r"^tokens: finished_rows not ascending below 3$"):
        unpack_tokens(tokens(finished_rows=u4(*rows)), 0)


@pytest.mark.parametrize("reasons", [[0, STOP], [STOP, 3], [STOP, 255], [0, 0]])
def test_an_unknown_finish_reason_is_refused(reasons: list[int]) -> None:
    """Only STOP and LENGTH end a request; UNSPECIFIED and numbers of a later protocol do not."""
    with pytest.raises(FrameError, match="finish reason"):
        unpack_tokens(tokens(finish_reasons=bytes(reasons)), 0)


def test_an_empty_prompt_or_budget_is_refused() -> None:
    """A prompt of 0 tokens, and a budget of 0 tokens, are refused."""
    with pytest.raises(FrameError, match="an empty prompt or a budget of 0 tokens"):
        unpack_submit(submit(prompt_lens=u4(0, 4), produced=b""))
    with pytest.raises(FrameError, match="an empty prompt or a budget of 0 tokens"):
        unpack_submit(submit(max_new_tokens=u4(5, 0)))


@pytest.mark.parametrize("produced", [(1, 0), (0, 3), (0, 4), (UINT32_MAX, 0)])
def test_a_prompt_is_more_than_its_produced_tokens(produced: tuple[int, int]) -> None:
    """A continuation keeps at least one token of the prompt itself: produced < prompt length."""
    with pytest.raises(FrameError, match="more tokens produced than the prompt holds"):
        unpack_submit(submit(produced=u4(*produced)))


def test_empty_messages_hold_nothing() -> None:
    """A Submit and a Tokens frame without any column unpack to no rows; requests alone may be none."""
    assert len(unpack_submit(submit_of()).requests) == 0
    empty = unpack_tokens(tokens_of(), 0)
    assert [len(empty.requests), len(empty.tokens), len(empty.finished_rows)] == [0, 0, 0]
    assert unpack_requests(b"").tolist() == []
    with pytest.raises(FrameError, match=r"^requests: 4 bytes is not a multiple of 8$"):
        unpack_requests(u4(1))


def test_two_rows_of_one_request_are_refused() -> None:
    """A Submit that names a request twice is a FrameError: an engine would mix their tokens."""
    prompts = PromptColumns(
        requests=np.array([3, 4, 3], np.uint64),
        prompt_lens=np.array([1, 1, 1], np.uint32),
        prompt_tokens=np.array([5, 6, 7], np.int32),
        max_new_tokens=np.array([1, 1, 1], np.uint32),
        produced=np.zeros(3, np.uint32),
    )
    with pytest.raises(FrameError, match="two rows of one request"):
        unpack_submit(pack_submit(prompts))
