"""Read the prompts of a parquet file, no more rows than asked for.

Only the process of `sut.dataset_file` imports this module: a damaged file may crash the C++ library.
"""

from collections.abc import Iterator
from io import BufferedIOBase

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.arrow_buffers import to_numpy
from sut.prompt_columns import (
    DATASET_COLUMN,
    DatasetColumns,
    UnreadableError,
    check_num_rows,
    check_prompts,
    row_of,
    shown,
    token_column,
)

_LIST_TYPES = (
    *(pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
    *(pa.types.is_list_view, pa.types.is_large_list_view),
)
PARQUET_ERRORS = (pa.ArrowException, AttributeError, LookupError, OSError, TypeError, ValueError)
"""Raised by pyarrow for damaged files; ValueError also for names that are no UTF-8."""

# Rows decoded at a time: a thousand of the longest official prompts are 61 MB.
_BATCH_ROWS = 1_000


def read_parquet(file: BufferedIOBase, max_samples: int | None) -> DatasetColumns:
    """Read the first rows.

    Raises:
        UnreadableError: The rows are not prompts.
        PARQUET_ERRORS, MemoryError: The file is damaged, or needs too much memory.
    """
    parquet = pq.ParquetFile(file)
    names = parquet.schema_arrow.names
    token_name = names[token_column(names)]
    num_rows = check_num_rows(parquet.metadata.num_rows, max_samples)
    prompt_lens, tokens, datasets = [], [], []
    first_row = 0
    for batch in _batches(parquet, token_name, num_rows):
        lens, ids = _prompts(_column(batch, token_name), first_row)
        check_prompts(lens, ids, first_row=first_row)
        prompt_lens.append(lens)
        tokens.append(ids.astype(np.int32))
        if DATASET_COLUMN in names:
            datasets += _texts(_column(batch, DATASET_COLUMN))
        first_row += len(lens)
    if first_row != num_rows:
        raise UnreadableError(f"is damaged: {first_row} rows of {num_rows} can be read")
    return DatasetColumns(names, np.concatenate(prompt_lens), np.concatenate(tokens), datasets)


def _batches(parquet: pq.ParquetFile, token_name: str, num_rows: int) -> Iterator[pa.RecordBatch]:
    """Read the two columns, in batches that end at row `num_rows`."""
    left = num_rows
    batches = parquet.iter_batches(
        batch_size=min(num_rows, _BATCH_ROWS), columns=[token_name, DATASET_COLUMN], use_threads=False
    )
    while left and (batch := next(batches, None)) is not None:
        yield batch.slice(0, left)
        left -= min(left, batch.num_rows)


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    # Select by position, because a column name may occur twice.
    column = batch.column(batch.schema.names.index(name))
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _lists(column: pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Return the lengths of lists, none of them null, and their values end to end.

    Ordinary lists need no pyarrow.compute, whose import takes 80 ms.
    """
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        offsets = to_numpy(column.offsets).astype(np.int64)
        return np.diff(offsets), column.values.slice(offsets[0], offsets[-1] - offsets[0])
    from pyarrow import compute

    return to_numpy(compute.list_value_length(column)).astype(np.int64), column.flatten()


def _texts(column: pa.Array) -> list[str | None]:
    """Return a column's texts; none if it is no text."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    texts: list[str | None] = column.to_pylist() if is_text else []
    return texts


def _prompts(column: pa.Array, first_row: int) -> tuple[NDArray[np.int64], NDArray[np.integer]]:
    """Return lengths and tokens of a column's prompts."""
    if column.null_count:
        row = first_row + int(np.argmax(column.is_null()))
        raise UnreadableError(f"row {row}: prompt is None, not a list of token ids")
    if not any(is_list(column.type) for is_list in _LIST_TYPES):
        value = shown(column[0].as_py())
        raise UnreadableError(f"row {first_row}: prompt {value} is {column.type}, not a list of token ids")
    lens, ids = _lists(column)
    if ids.null_count:
        row = first_row + row_of(lens, np.asarray(ids.is_null()))
        raise UnreadableError(f"row {row}: token None is not an integer")
    if len(ids) and not pa.types.is_integer(ids.type):
        row, value = first_row + int(np.argmax(lens > 0)), shown(ids[0].as_py())
        raise UnreadableError(f"row {row}: token {value} is {ids.type}, not an integer")
    return lens, to_numpy(ids) if len(ids) else np.zeros(0, np.int64)
