"""Reads requests.parquet and timeline.parquet as numpy columns; a column that is missing is all unknown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.arrow_buffers import to_numpy
from common.text import printable
from sut.log_files import REQUESTS, TIMELINE
from sut.results.timing.requests_file import open_parquet

MAX_ROWS = 5_000_000
"""A run of ten hours at 100 queries/s has 3,600,000; the columns of so many need 0.5 GiB."""
UNKNOWN = np.iinfo(np.int64).min
"""Stands for null in a column of integers; NaN stands for it in a column of floats."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

REQUEST_COLUMNS = (
    *("worker", "prompt_tokens", "answer_tokens", "losses", "scheduled_ns", "issued_ns", "sent_ns"),
    *("first_arrival_ns", "first_reported_ns", "done_arrival_ns", "done_reported_ns", "clock_error_ns"),
)
TIMELINE_INTS = ("time_ns", "worker", "tokens")
TIMELINE_FLOATS = (
    *("running", "waiting", "kv_use", "gpu_power_w", "gpu_clock_mhz", "gpu_memory_bytes"),
    "gpu_temperature_c",
)


class MissingFileError(ValueError):
    """A file of the run is missing or cannot be read; one sentence for the page."""


class RunColumns(NamedTuple):
    """Columns of one file."""

    num_rows: int
    ints: Mapping[str, Ints]
    floats: Mapping[str, Floats]

    def known(self, *names: str) -> NDArray[np.bool_]:
        """Tell which rows have all these integers, (N,)."""
        found = np.ones(self.num_rows, np.bool_)
        for name in names:
            found &= self.ints[name] != UNKNOWN
        return found

    def has(self, *names: str) -> bool:
        """Whether any row has all these integers."""
        return bool(self.known(*names).any())

    def difference(self, later: str, earlier: str) -> Ints:
        """Subtract two columns in the rows that have both, (M,)."""
        rows = self.known(later, earlier)
        return self.ints[later][rows] - self.ints[earlier][rows]


def read_requests(run_dir: Path, run_id: str) -> RunColumns:
    """Read requests.parquet of the run with this id.

    Raises:
        MissingFileError: It is missing or no such file.
        ForeignFileError: It is of another run.
    """
    return _read(run_dir / REQUESTS, run_id, REQUEST_COLUMNS, ())


def read_timeline(run_dir: Path, run_id: str) -> RunColumns:
    """Read timeline.parquet of the run with this id.

    Raises:
        MissingFileError: It is missing or no such file.
        ForeignFileError: It is of another run.
    """
    return _read(run_dir / TIMELINE, run_id, TIMELINE_INTS, TIMELINE_FLOATS)


def _read(path: Path, run_id: str, ints: Sequence[str], floats: Sequence[str]) -> RunColumns:
    try:
        with open_parquet(path, run_id) as file:
            return _columns(file, ints, floats)
    except FileNotFoundError as error:
        raise MissingFileError(f"The run has no {path.name}.") from error
    except OSError as error:
        reason = printable(str(error.strerror or error), 200)
        raise MissingFileError(f"{path.name} cannot be read: {reason}") from error


def _columns(file: pq.ParquetFile, ints: Sequence[str], floats: Sequence[str]) -> RunColumns:
    num_rows = file.metadata.num_rows
    if num_rows > MAX_ROWS:
        raise MissingFileError(f"The file has {num_rows:,} rows; a report reads at most {MAX_ROWS:,}.")
    names = [name for name in (*ints, *floats) if name in file.schema_arrow.names]
    found = file.read(names)
    return RunColumns(
        num_rows,
        {name: _ints(found, name) for name in ints},
        {name: _floats(found, name) for name in floats},
    )


def _ints(found: pa.Table, name: str) -> Ints:
    """Convert a column, (N,), with UNKNOWN for null."""
    if name not in found.column_names:
        return np.full(found.num_rows, UNKNOWN)
    chunks = found[name].cast(pa.int64()).fill_null(UNKNOWN).chunks
    return np.concatenate([np.zeros(0, np.int64), *map(to_numpy, chunks)])


def _floats(found: pa.Table, name: str) -> Floats:
    """Convert a column, (N,), with NaN for null."""
    if name not in found.column_names:
        return np.full(found.num_rows, np.nan)
    chunks = found[name].cast(pa.float64()).fill_null(np.nan).chunks
    return np.concatenate([np.zeros(0), *map(to_numpy, chunks)])
