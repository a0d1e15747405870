"""Columns that are read from a data set's file, and the checks that parquet files and pickles share."""

import reprlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.text import printable

TOKEN_COLUMNS = ("tok_input", "input_tokens")
DATASET_COLUMN = "dataset"
ID_BOUND = 2**31
"""Ids are int32 from here to the engine."""

# Bounds on what one line shows of a file.
_MAX_VALUE_LEN = 60
_MAX_NAMES = 20
# An int's decimal digits take time quadratic in its length, and Python refuses more than 4,300 of them.
_MAX_SHOWN_BITS = 256


class UnreadableError(Exception):
    """A file is not a data set; its text is one line that names row, value and bound."""


class DatasetColumns(NamedTuple):
    """What is read of a file's first N rows."""

    names: Sequence[str]
    """Names of all columns of the file."""
    prompt_lens: NDArray[np.int64]
    """(N,)"""
    tokens: NDArray[np.int32]
    """(T,) all prompts, concatenated."""
    datasets: Iterable[object]
    """(N,) values of the column `dataset`; empty without it."""


def token_column(names: Sequence[str]) -> int:
    """Return the index of the token column.

    Raises:
        UnreadableError: There is none.
    """
    for name in TOKEN_COLUMNS:
        if name in names:
            return names.index(name)
    shown = [printable(name, _MAX_VALUE_LEN) for name in names[:_MAX_NAMES]]
    found = ", ".join([*shown, "..."] if len(names) > _MAX_NAMES else shown) or "none"
    raise UnreadableError(f"has no column {' or '.join(TOKEN_COLUMNS)}; columns found: {found}")


def check_num_rows(num_rows: int, max_samples: int | None) -> int:
    """Return how many rows to read.

    Raises:
        UnreadableError: The file has none, or fewer than `--max-samples`.
    """
    if num_rows <= 0:
        raise UnreadableError("has 0 rows")
    if max_samples is not None and num_rows < max_samples:
        raise UnreadableError(f"has {num_rows} rows, fewer than --max-samples {max_samples}")
    return num_rows if max_samples is None else max_samples


def check_prompts(prompt_lens: NDArray[np.int64], tokens: NDArray[np.integer], *, first_row: int = 0) -> None:
    """Check that no prompt is empty and that every id fits int32.

    Args:
        prompt_lens: (R,) of consecutive rows.
        tokens: (T,) their tokens.
        first_row: Row of the first prompt.

    Raises:
        UnreadableError: Names the row and the value.
    """
    if not prompt_lens.all():
        raise UnreadableError(f"row {first_row + int(np.argmin(prompt_lens))}: prompt is empty")
    check_ids(prompt_lens, tokens, ID_BOUND, first_row=first_row)


def check_ids(
    prompt_lens: NDArray[np.int64], tokens: NDArray[np.integer], bound: int, *, first_row: int = 0
) -> None:
    """Check that every id is in 0 <= id < bound.

    Raises:
        UnreadableError: Names the row and the value of the first one outside.
    """
    if len(tokens) and (tokens.min() < 0 or tokens.max() >= bound):
        wrong = (tokens < 0) | (tokens >= bound)
        row = first_row + row_of(prompt_lens, wrong)
        raise UnreadableError(outside(row, int(tokens[np.argmax(wrong)]), bound))


def outside(row: int, token: int, bound: int) -> str:
    """Compose the line for an id out of range."""
    value = str(token) if token.bit_length() <= _MAX_SHOWN_BITS else f"of {token.bit_length()} bits"
    return f"row {row}: token {value} is outside 0 <= id < {bound}"


def row_of(prompt_lens: NDArray[np.int64], wrong: NDArray[np.bool_]) -> int:
    """Return the row of the first wrong token."""
    return int(np.searchsorted(prompt_lens.cumsum(), np.argmax(wrong), side="right"))


def shown(value: object) -> str:
    """Show a value of a file in a line, shortened; it need not be printable."""
    if isinstance(value, int) and value.bit_length() > _MAX_SHOWN_BITS:
        return f"an integer of {value.bit_length()} bits"
    return printable(reprlib.repr(value), _MAX_VALUE_LEN)
