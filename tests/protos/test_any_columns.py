"""Columns drawn at random: what is packed comes back, and garbage is refused in one way only."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from protos import worker_pb2 as pb
from protos.columns import (
    FrameError,
    PromptColumns,
    TokenColumns,
    TokenTimes,
    pack_submit,
    pack_tokens,
    unpack_submit,
    unpack_tokens,
)
from tests.protos.by_hand import submit_of, tokens_of

FUZZ = settings(max_examples=150)
STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
UINT32_MAX = 0xFFFFFFFF


def as_lists(columns: PromptColumns | TokenColumns) -> list[object]:
    """Turn columns into plain lists for comparison."""
    return [column.tolist() if isinstance(column, np.ndarray) else column for column in columns]


@FUZZ
@given(
    st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1)),
        unique_by=lambda row: row[0],
    ),
    st.data(),
)
def test_any_prompts_come_back_as_sent(rows: list[tuple[int, list[int]]], data: st.DataObject) -> None:
    """Pack, serialize, parse and unpack give back every column of a Submit."""
    lens = [len(prompt) for _, prompt in rows]
    prompts = PromptColumns(
        np.array([name for name, _ in rows], np.uint64),
        np.array(lens, np.uint32),
        np.array([token for _, prompt in rows for token in prompt], np.int32),
        np.array([data.draw(st.integers(1, UINT32_MAX)) for _ in rows], np.uint32),
        np.array([data.draw(st.integers(0, length - 1)) for length in lens], np.uint32),
    )
    received = unpack_submit(pb.Submit.FromString(pack_submit(prompts).SerializeToString()))
    assert as_lists(prompts) == as_lists(received)


@FUZZ
@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 3), st.sampled_from([0, STOP, LENGTH]))),
    st.booleans(),
)
def test_any_tokens_come_back_as_sent(rows: list[tuple[int, int, int]], ones: bool) -> None:
    """Pack, serialize, parse and unpack give back every column of a Tokens frame."""
    counts = [1 if ones else count for _, count, _ in rows]
    columns = TokenColumns(
        np.array([name for name, _, _ in rows], np.uint64),
        None if ones or not rows else np.array(counts, np.uint32),
        np.arange(sum(counts), dtype=np.int32) - 2,
        np.array([row for row, (_, _, reason) in enumerate(rows) if reason], np.uint32),
        np.array([reason for _, _, reason in rows if reason], np.uint8),
        2**63 - 1,
    )
    ends = len(columns.finished_rows)
    begins = [row for row, count in enumerate(counts) if count]
    drawn = [[2**63 - 1 - row for row in begins], [0] * len(begins), begins]
    columns = columns._replace(times=TokenTimes(7, begins, *drawn, [2**63 - 1] * ends))
    received = unpack_tokens(pb.Tokens.FromString(pack_tokens(columns, 5).SerializeToString()), 5)
    assert as_lists(columns) == as_lists(received)


def column_bytes(itemsize: int) -> st.SearchStrategy[bytes]:
    """Draw columns that are garbage, or whole numbers small enough to agree with each other at times."""
    small = st.lists(st.integers(0, 3) | st.just(2 ** (8 * itemsize) - 1), max_size=4)
    whole = small.map(lambda values: b"".join(value.to_bytes(itemsize, "little") for value in values))
    return whole | st.binary(max_size=20)


@FUZZ
@given(column_bytes(8), column_bytes(4), column_bytes(4), column_bytes(4), column_bytes(4))
def test_garbage_in_a_submit_is_a_frame_error(a: bytes, b: bytes, c: bytes, d: bytes, e: bytes) -> None:
    """Random columns either unpack to prompts that agree or raise FrameError, nothing else."""
    message = submit_of(requests=a, prompt_lens=b, prompt_tokens=c, max_new_tokens=d, produced=e)
    try:
        prompts = unpack_submit(message)
    except FrameError:
        return
    rows = list(zip(prompts.prompt_lens.tolist(), prompts.produced.tolist(), strict=True))
    assert all(0 <= produced < length for length, produced in rows)
    assert len(rows) == len(prompts.requests) == len(prompts.max_new_tokens)
    assert sum(length for length, _ in rows) == len(prompts.prompt_tokens)
    assert 0 not in prompts.max_new_tokens.tolist()


@FUZZ
@given(column_bytes(8), column_bytes(4), column_bytes(4), column_bytes(4), column_bytes(1), column_bytes(8))
def test_garbage_in_a_token_frame_is_a_frame_error(
    a: bytes, b: bytes, c: bytes, d: bytes, e: bytes, f: bytes
) -> None:
    """Random columns either unpack to rows that agree or raise FrameError, nothing else."""
    message = tokens_of(requests=a, counts=b, tokens=c, finished_rows=d, finish_reasons=e, times=f)
    try:
        columns = unpack_tokens(message, 0)
    except FrameError:
        return
    num_rows, ends = len(columns.requests), columns.finished_rows.tolist()
    counts = [1] * num_rows if columns.counts is None else columns.counts.tolist()
    assert (num_rows, sum(counts)) == (len(counts), len(columns.tokens))
    assert ends == sorted(set(ends) & set(range(num_rows)))
    assert set(columns.finish_reasons.tolist()) <= {STOP, LENGTH}
    assert len(ends) == len(columns.finish_reasons)
    if columns.times is not None:
        begins = columns.times.first_rows
        assert begins == sorted(set(begins) & set(range(num_rows)))
        assert len(columns.times.last_ns) == len(ends)
