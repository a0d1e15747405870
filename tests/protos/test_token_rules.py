"""The token ids of a frame: inside the vocabulary, and a stop id only as the last token of an answer."""

import numpy as np
import pytest

from protos import worker_pb2 as pb
from protos.columns import FrameError, TokenColumns, TokenRules

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
# A vocabulary of 100 ids; 50 and 60 end an answer, as special ids between ordinary ones.
RULES = TokenRules(100, (50, 60))
INSIDE = "a stop id inside an answer, or without the end of the answer"
NO_STOP_ID = "an answer ends with STOP, but its last token is no stop id"


def frame(*rows: list[int], ends: dict[int, int] | None = None, ones: bool = False) -> TokenColumns:
    """Make a frame of rows of tokens; `ends` maps a row to its reason; `ones` leaves out counts."""
    ends = ends or {}
    return TokenColumns(
        requests=np.arange(len(rows), dtype=np.uint64),
        counts=None if ones else np.array([len(row) for row in rows], np.uint32),
        tokens=np.array([token for row in rows for token in row], np.int32),
        finished_rows=np.array(list(ends), np.uint32),
        finish_reasons=np.array(list(ends.values()), np.uint8),
        produced_ns=0,
    )


@pytest.mark.parametrize(
    "columns",
    [
        frame(),
        frame(ones=True),
        frame([], []),
        frame([1, 99], [51, 49]),
        frame([1], [99], ones=True),
        frame([1, 50], [2], ends={0: STOP}),
        frame([2], [60], ends={1: STOP}, ones=True),
        frame([1, 50], [], [60], ends={0: STOP, 2: STOP}),
        # The last token that the budget allows may be any token, a stop id too.
        frame([1, 2], ends={0: LENGTH}),
        frame([1, 50], ends={0: LENGTH}),
        # Whether an answer may end without a new token depends on the request: the table knows.
        frame([], [1], ends={0: STOP}),
    ],
)
def test_an_honest_frame_passes(columns: TokenColumns) -> None:
    """Ids below the vocabulary, each stop id at the end of a row that ends."""
    RULES.check(columns)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (frame([1, 100]), "a token id outside the vocabulary of 100"),
        (frame([-1], [2], ones=True), "a token id outside the vocabulary of 100"),
        (frame([50, 1]), INSIDE),
        (frame([1, 60]), INSIDE),
        (frame([1], [50], ones=True), INSIDE),
        (frame([50, 1, 60], ends={0: STOP}), INSIDE),
        (frame([50, 50], ends={0: STOP}), INSIDE),
        (frame([1, 60, 2], ends={0: LENGTH}), INSIDE),
        # One row ends as it should, and the stop id of the other has no end.
        (frame([1, 50], [2, 50], ends={1: STOP}), INSIDE),
        (frame([], [50], ends={0: STOP}), INSIDE),
        (frame([1, 2], ends={0: STOP}), NO_STOP_ID),
        (frame([50, 99], ends={0: STOP}), NO_STOP_ID),
        (frame([1], [50], ends={0: STOP, 1: STOP}, ones=True), NO_STOP_ID),
        # As many stop ids as ends, but not at the ends.
        (frame([1, 50], [60, 2], ends={0: STOP, 1: LENGTH}), INSIDE),
    ],
)
def test_a_lie_about_an_end_is_refused(columns: TokenColumns, reason: str) -> None:
    """Tokens behind a stop id, a stop id without an end, STOP on another token, an id that is none."""
    with pytest.raises(FrameError, match=f"^{reason}$"):
        RULES.check(columns)


def test_a_model_without_stop_ids_never_ends_with_stop() -> None:
    """Without stop ids any token may stand anywhere, and STOP is always a lie."""
    rules = TokenRules(100, ())
    rules.check(frame([1, 99], ends={0: LENGTH}))
    with pytest.raises(FrameError, match=NO_STOP_ID):
        rules.check(frame([1, 99], ends={0: STOP}))


@pytest.mark.parametrize("num", [1, 64, 640])
def test_a_stop_id_among_many_tokens_is_found(num: int) -> None:
    """A model whose stop id is low: nearly every token is above it."""
    row = [70] * num
    RULES.check(frame(row, [*row, 50], ends={1: STOP}))
    with pytest.raises(FrameError, match=INSIDE):
        RULES.check(frame(row, [*row, 50]))
    with pytest.raises(FrameError, match=INSIDE):
        RULES.check(frame([*row, 60, *row, 50], ends={0: STOP}))
    with pytest.raises(FrameError, match="outside the vocabulary of 100"):
        RULES.check(frame(row, [*row, 100]))
    with pytest.raises(FrameError, match="outside the vocabulary of 100"):
        RULES.check(frame([-1], row))
