"""The outputs of a run on disk: an Arrow IPC stream that grows, and the parquet file written from it.

The stream is readable up to its last whole batch even if its writer is killed.
"""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.arrow_buffers import to_arrow, to_texts
from common.atomic_files import whole_file

STREAM_NAME = "outputs.arrows"
PARTIAL_NAME = "partial_outputs.parquet"
STREAM_SCHEMA = pa.schema([("sample", pa.int64()), ("tokens", pa.list_(pa.int32()))])
PARTIAL_SCHEMA = STREAM_SCHEMA.append(pa.field("state", pa.string()))
# A batch of the stream may hold the answers of one second, too few for a row group.
_ROW_GROUP_TOKENS = 1 << 20


class DeadlinePassed(Exception):
    """A conversion did not end before its deadline."""


class OutputBatch(NamedTuple):
    """Tokens of R requests, concatenated."""

    samples: NDArray[np.int64]
    """(R,)"""
    counts: NDArray[np.int64]
    """(R,) tokens of each."""
    tokens: NDArray[np.int32]
    """(T,), T the sum of counts."""

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays."""
        return self.samples.nbytes + self.counts.nbytes + self.tokens.nbytes


def record_batch(batches: Sequence[OutputBatch], states: Sequence[str] | None = None) -> pa.RecordBatch:
    """Convert outputs to one Arrow record batch.

    Args:
        batches: At least one; at most 2**31 - 1 tokens in total.
        states: One per request; the schema is then PARTIAL_SCHEMA, otherwise STREAM_SCHEMA.
    """
    samples = np.concatenate([batch.samples for batch in batches]).astype(np.int64, copy=False)
    counts = np.concatenate([batch.counts for batch in batches])
    tokens = np.concatenate([batch.tokens for batch in batches]).astype(np.int32, copy=False)
    offsets = np.zeros(len(counts) + 1, np.int32)
    np.cumsum(counts, out=offsets[1:])
    assert int(offsets[-1]) == len(tokens)
    columns = [to_arrow(samples), pa.ListArray.from_arrays(to_arrow(offsets), to_arrow(tokens))]
    if states is None:
        return pa.RecordBatch.from_arrays(columns, schema=STREAM_SCHEMA)
    return pa.RecordBatch.from_arrays([*columns, to_texts(states)], schema=PARTIAL_SCHEMA)


class StreamFile:
    """An Arrow IPC stream that grows batch by batch; a failed write leaves no part of its batch."""

    def __init__(self, path: Path) -> None:
        """Create the file; it must not exist.

        Raises:
            OSError: It cannot be created.
        """
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._good_bytes = 0
        self.num_rows = 0
        """Answers in the file."""
        self._append(STREAM_SCHEMA.serialize())

    def write(self, batch: pa.RecordBatch) -> None:
        """Append one batch.

        Raises:
            OSError: The batch is not in the file: no space, or the file was deleted.
        """
        self._append(batch.serialize())
        self.num_rows += batch.num_rows

    def close(self) -> None:
        """Close the file; a stream may end after any batch."""
        os.close(self._fd)

    def delete(self, path: Path) -> None:
        """Delete the file if it is the one at a path, and close it."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._fd), os.stat(path)):
                os.unlink(path)
        self.close()

    def _append(self, message: pa.Buffer) -> None:
        left, end = memoryview(message), self._good_bytes
        try:
            while left:
                num_bytes = os.pwrite(self._fd, left, end)
                left, end = left[num_bytes:], end + num_bytes
            if os.fstat(self._fd).st_nlink == 0:
                raise FileNotFoundError(2, "the file was removed")
        except OSError:
            os.ftruncate(self._fd, self._good_bytes)
            raise
        self._good_bytes = end


def read_stream(path: Path) -> Iterator[pa.RecordBatch]:
    """Read a stream's batches, STREAM_SCHEMA, up to the last whole one; its writer may have been killed.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        try:
            yield from pa.ipc.open_stream(file)
        except (pa.ArrowInvalid, OSError) as error:
            # Arrow reports a truncated stream by an error without errno.
            if getattr(error, "errno", None) is not None:
                raise


def write_partial(
    path: Path, stream: Path, rest: Sequence[pa.RecordBatch], deadline_ns: int
) -> dict[str, int]:
    """Write a stream's answers and additional rows to one parquet file, whole or not at all.

    Args:
        path: The parquet file, columns sample, tokens, state.
        stream: File of complete answers.
        rest: Additional batches, PARTIAL_SCHEMA.
        deadline_ns: On the clock of time.monotonic_ns().

    Returns:
        Number of rows by state.

    Raises:
        OSError: A file cannot be read or written, e.g. the disk is full.
        DeadlinePassed: The file was not complete by the deadline.
    """
    counts: Counter[str] = Counter()
    with whole_file(path) as partial:
        # An open file: pyarrow parses a path with a colon as a URI.
        with (
            partial.open("wb") as file,
            pq.ParquetWriter(file, PARTIAL_SCHEMA, use_dictionary=False, compression="zstd") as writer,
        ):
            for table in _row_groups(_all_batches(stream, rest)):
                if time.monotonic_ns() > deadline_ns:
                    raise DeadlinePassed
                writer.write_table(table)
                counts.update(table["state"].to_pylist())
        if time.monotonic_ns() > deadline_ns:
            raise DeadlinePassed
    return counts


def _all_batches(stream: Path, rest: Sequence[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in read_stream(stream):
        state = to_texts(["complete"] * batch.num_rows)
        yield pa.RecordBatch.from_arrays([*batch.columns, state], schema=PARTIAL_SCHEMA)
    yield from rest


def _row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    num_tokens = 0
    for batch in batches:
        waiting.append(batch)
        # Not flatten(): it imports pyarrow.compute, and a run that leaves has no time for an import.
        num_tokens += len(batch["tokens"].values)
        if num_tokens >= _ROW_GROUP_TOKENS:
            yield pa.Table.from_batches(waiting)
            waiting, num_tokens = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)
