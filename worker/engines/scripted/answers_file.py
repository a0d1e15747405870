"""Read the answers of --answers: a parquet file with the columns `input_tokens` and `output_tokens`.

Both are lists of token ids, a row is a prompt and an answer to it. `tok_input` is another name of the first.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.arrow_buffers import to_numpy
from common.flags import FlagError
from protos.columns import TokenIds
from worker.engines.scripted.answers import VOCAB_SIZE
from worker.engines.scripted.recorded_answers import STOP_TOKEN_IDS, RecordedAnswers, prompt_key

FLAG = "--answers"
PROMPT_COLUMNS = ("input_tokens", "tok_input")
ANSWER_COLUMN = "output_tokens"
# Rows decoded at a time: 256 answers of the longest official budget are 34 MB.
_BATCH_ROWS = 256
_DAMAGED = (pa.ArrowException, AttributeError, LookupError, OSError, TypeError)


def read_answers(path: Path) -> RecordedAnswers:
    """Read an answers file.

    Raises:
        FlagError: The file cannot be read, or a row is no prompt and answer.
    """
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            return _read(pq.ParquetFile(file), sha256)
    except ValueError as error:
        raise FlagError(FLAG, str(error).partition("\n")[0], path) from error
    except _DAMAGED as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FlagError(FLAG, f"cannot be read: {reason.partition(chr(10))[0]}", path) from error


def _read(parquet: pq.ParquetFile, sha256: str) -> RecordedAnswers:
    names = parquet.schema_arrow.names
    prompt_column = next((name for name in PROMPT_COLUMNS if name in names), None)
    if prompt_column is None or ANSWER_COLUMN not in names:
        raise ValueError(f"has no columns {PROMPT_COLUMNS[0]} and {ANSWER_COLUMN}")
    keys: list[bytes] = []
    parts = []
    for batch in parquet.iter_batches(_BATCH_ROWS, columns=[prompt_column, ANSWER_COLUMN], use_threads=False):
        parts.append(_lists(batch.column(ANSWER_COLUMN), len(keys)))
        _check_stops(*parts[-1], len(keys))
        keys += _keys(*_lists(batch.column(prompt_column), len(keys)))
    if not keys:
        raise ValueError("has 0 rows")
    lens, tokens = (np.concatenate(column) for column in zip(*parts, strict=True))
    if not len(tokens):
        raise ValueError("has no token in any answer")
    return RecordedAnswers(sha256, keys, tokens, lens)


def _lists(column: pa.Array, first_row: int) -> tuple[NDArray[np.int64], TokenIds]:
    """Return lengths (R,) and tokens (T,) of a column of lists.

    Raises:
        ValueError: Names the first row, or the row, and what is wrong.
    """
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not pa.types.is_integer(kind.value_type):
        raise ValueError(f"column of type {kind}, not a list of token ids")
    flat = column.flatten()
    if column.null_count or flat.null_count:
        raise ValueError(f"a null value in rows {first_row} to {first_row + len(column) - 1}")
    lens, tokens = to_numpy(pc.list_value_length(column)).astype(np.int64), to_numpy(flat)
    wrong = (tokens < 0) | (tokens >= VOCAB_SIZE)
    if wrong.any():
        row = first_row + _row_of(lens, wrong)
        raise ValueError(f"row {row}: token {tokens[np.argmax(wrong)]} is outside 0 <= id < {VOCAB_SIZE}")
    return lens, tokens.astype(np.int32)


def _check_stops(lens: NDArray[np.int64], tokens: TokenIds, first_row: int) -> None:
    """Check that a stop id is the last token of its answer.

    Raises:
        ValueError: Names the row.
    """
    inside = np.isin(tokens, STOP_TOKEN_IDS)
    inside[lens.cumsum()[lens > 0] - 1] = False
    if inside.any():
        row = first_row + _row_of(lens, inside)
        raise ValueError(f"row {row}: stop id {tokens[np.argmax(inside)]} inside the answer")


def _row_of(lens: NDArray[np.int64], marked: NDArray[np.bool_]) -> int:
    """Return the row of the first marked token."""
    return int(np.searchsorted(lens.cumsum(), np.argmax(marked), side="right"))


def _keys(lens: NDArray[np.int64], tokens: TokenIds) -> Iterator[bytes]:
    ends = lens.cumsum().tolist()
    return (prompt_key(tokens[end - num : end]) for end, num in zip(ends, lens.tolist(), strict=True))
