"""The process that reads a data set's file: whatever the file does to it, the run's own process continues.

    python -P -m sut.dataset_file FILE [ROWS]

Writes the prompts to stdout as an Arrow IPC stream of one batch, with the file's facts as JSON in the
schema's metadata. A file that is no data set gives exit code 2 and one line on stderr.
"""

import bz2
import gzip
import hashlib
import json
import lzma
import os
import resource
import signal
import stat
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from typing import IO, Final, cast

import numpy as np
import pyarrow as pa

from common.arrow_buffers import to_arrow
from common.text import printable
from sut.prompt_columns import DatasetColumns, UnreadableError

REFUSED: Final = 2
"""Exit code: the file is no data set."""
FACTS: Final = b"facts"
"""Key of the JSON text in the schema's metadata."""
READ_TIMEOUT_S: Final = 300
"""Longest time for one file; a file of official size takes seconds, but a network disk may be slow."""
MAX_LINE_LEN: Final = 500
"""Longest refusal, in characters."""

# Address space beyond that of the imports: for any file, and for each byte of it. Files with the rows and
# lengths of the official ones need 0.30 GiB as parquet (148 MiB) and 0.82 GiB as pickled lists (142 MiB, in
# gzip 94 MiB), measured; the limit is at least three times as much.
_LIMIT_BYTES = 1 << 30
_LIMIT_BYTES_PER_BYTE = 16

_MAX_COLUMNS = 1_000
_MAX_DATASETS = 1_000
_MAX_NAME_LEN = 100
_HEAD_BYTES = 64
_PARQUET_MAGIC = b"PAR1"
_PICKLE_MAGIC = b"\x80"  # protocol 2 and later
_SHOWN_BYTES = 16
_CHUNK_BYTES = 1 << 20
_COMPRESSED: dict[bytes, tuple[str, Callable[[BufferedIOBase], BufferedIOBase]]] = {
    b"\x1f\x8b": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lambda file: lzma.LZMAFile(cast("IO[bytes]", file))),  # noqa: SIM115
}
# First bytes, in any case, of what is often given instead of a data set, and what to do about it.
_FOREIGN = {
    b"version https://git-lfs": "is a Git LFS pointer, not the data: run `git lfs pull` in its repository",
    b"pare": "is an encrypted parquet file: decrypt it first",
    b"arrow1": "is an Arrow IPC (feather) file: convert it with pandas.read_feather(...).to_parquet(...)",
    b"pk\x03\x04": "is a zip archive: unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: decompress it first (zstd -d)",
    b"\x04\x22\x4d\x18": "is compressed with lz4: decompress it first (lz4 -d)",
    b"{": "is JSON text: convert it with pandas.read_json(..., lines=True).to_parquet(...)",
    b"[": "is JSON text: convert it with pandas.read_json(...).to_parquet(...)",
    b"<!doctype html": "is an HTML page, not the data: download the file again",
    b"<html": "is an HTML page, not the data: download the file again",
}
_DECOMPRESSION_ERRORS = (zlib.error, lzma.LZMAError)


def main(argv: list[str]) -> int:
    """Read one file.

    Args:
        argv: The file, and the number of rows if not all are wanted.

    Returns:
        The exit code.
    """
    # If the parent is killed, this process ends by itself.
    signal.alarm(READ_TIMEOUT_S)
    max_samples = int(argv[1]) if argv[1:] else None
    limit_bytes = 0
    try:
        with open_regular(argv[0]) as file:
            limit_bytes = _limit_memory(os.fstat(file.fileno()).st_size)
            _write(*read(file, max_samples))
    except UnreadableError as error:
        reason = str(error)
    except MemoryError:
        reason = f"needs more than {limit_bytes / 2**30:.1f} GiB of memory to read, the limit for its size"
    else:
        return 0
    sys.stderr.write(printable(" ".join(reason.split()), MAX_LINE_LEN))
    return REFUSED


@contextmanager
def open_regular(path: str) -> Iterator[BufferedIOBase]:
    """Open a regular file; never waits for a pipe's other end.

    Raises:
        UnreadableError: It cannot be opened, is no regular file, or changes before the block ends.
    """
    try:
        file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    with file:
        opened = os.fstat(file.fileno())
        if not stat.S_ISREG(opened.st_mode):
            raise UnreadableError("is not a regular file")
        if opened.st_size == 0:
            raise UnreadableError("is empty")
        yield file
        read = os.fstat(file.fileno())
    if (opened.st_size, opened.st_mtime_ns) != (read.st_size, read.st_mtime_ns):
        raise UnreadableError("changed while it was read")


def read(file: BufferedIOBase, max_samples: int | None) -> tuple[DatasetColumns, str]:
    """Read a file's first rows.

    Returns:
        The columns, and the SHA-256 of the whole file.

    Raises:
        UnreadableError: The file is no data set.
    """
    try:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        head = file.read(_HEAD_BYTES)
        file.seek(0)
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    for magic, (name, open_compressed) in _COMPRESSED.items():
        if head.startswith(magic):
            return _read_compressed(name, open_compressed(file), max_samples), sha256
    return _read_content(file, head, max_samples), sha256


def _read_compressed(name: str, file: BufferedIOBase, max_samples: int | None) -> DatasetColumns:
    """Read a compressed pickle, as pandas writes it to a name like set.pkl.gz."""
    try:
        head = file.read(_HEAD_BYTES)
        if head.startswith(_PARQUET_MAGIC):
            raise UnreadableError(f"is parquet compressed with {name}: decompress it first")
        file.seek(0)
        columns = _read_content(file, head, max_samples)
        while file.read(_CHUNK_BYTES):
            pass  # the checksum stands at the end
    except (*_DECOMPRESSION_ERRORS, EOFError, OSError) as error:
        raise UnreadableError(f"is compressed with {name}, and damaged: {error}") from error
    return columns


def _read_content(file: BufferedIOBase, head: bytes, max_samples: int | None) -> DatasetColumns:
    """Read what is not compressed; the first bytes, not the file's name, tell the format."""
    start = head.lstrip().lower()
    for magic, reason in _FOREIGN.items():
        if start.startswith(magic.lower()):
            raise UnreadableError(reason)
    # Only what this file needs is imported.
    if head.startswith(_PARQUET_MAGIC):
        from sut.parquet_file import PARQUET_ERRORS, read_parquet

        return _reading("parquet file", PARQUET_ERRORS, read_parquet, file, max_samples)
    if not head.startswith(_PICKLE_MAGIC):
        begins = repr(head[:_SHOWN_BYTES])
        raise UnreadableError(f"is neither parquet nor a pickled DataFrame: begins with {begins}")
    from sut.pickled_frame import PICKLE_ERRORS, read_pickle

    return _reading("pickled DataFrame", PICKLE_ERRORS, read_pickle, file, max_samples)


def _reading(
    form: str,
    errors: tuple[type[Exception], ...],
    read_form: Callable[[BufferedIOBase, int | None], DatasetColumns],
    file: BufferedIOBase,
    max_samples: int | None,
) -> DatasetColumns:
    try:
        return read_form(file, max_samples)
    except MemoryError:
        raise
    except errors as error:
        raise UnreadableError(f"is not a readable {form}: {str(error) or type(error).__name__}") from error


def _limit_memory(file_bytes: int) -> int:
    """Limit this process's address space; returns how much it may still take."""
    with open("/proc/self/statm", encoding="ascii") as statm:
        used_bytes = int(statm.read().split()[0]) * resource.getpagesize()
    limit_bytes = _LIMIT_BYTES + _LIMIT_BYTES_PER_BYTE * file_bytes
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    total = used_bytes + limit_bytes
    resource.setrlimit(
        resource.RLIMIT_AS, (total if hard == resource.RLIM_INFINITY else min(total, hard), hard)
    )
    return limit_bytes


def _write(columns: DatasetColumns, sha256: str) -> None:
    counts = Counter(value for value in columns.datasets if isinstance(value, str))
    facts = {
        "sha256": sha256,
        "column_names": [printable(name, _MAX_NAME_LEN) for name in columns.names[:_MAX_COLUMNS]],
        "rows_by_dataset": {
            printable(name, _MAX_NAME_LEN): num_rows for name, num_rows in counts.most_common(_MAX_DATASETS)
        },
    }
    offsets = np.concatenate([np.zeros(1, np.int64), columns.prompt_lens.cumsum()])
    prompts = pa.LargeListArray.from_arrays(to_arrow(offsets), to_arrow(columns.tokens))
    schema = pa.schema([("prompt", prompts.type)], metadata={FACTS: json.dumps(facts)})
    with (
        open(sys.stdout.fileno(), "wb", closefd=False) as out,
        pa.ipc.new_stream(out, schema) as stream,
    ):
        stream.write_batch(pa.record_batch([prompts], schema=schema))


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    sys.stderr.flush()
    # Without destructors: Arrow's thread pool aborts one process in a hundred in its own.
    os._exit(exit_code)
