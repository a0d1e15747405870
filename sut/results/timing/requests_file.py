"""Files of a run's requests: requests.parquet, the same as JSON lines, and a summary as CSV."""

import contextlib
import csv
import errno
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.arrow_buffers import to_arrow, to_booleans, to_texts
from common.atomic_files import whole_file
from common.bounded_file import open_regular
from common.json_document import parse_json
from common.text import printable
from sut.log_files import RECORD, REQUESTS
from sut.results.timing.clock_offsets import UNKNOWN_NS
from sut.results.timing.decomposition import PERCENTILES, ttft_parts
from sut.results.timing.request_records import TIME_COLUMNS, RequestRecords, is_known
from sut.results.timing.spread import percentile_rank

JSONL_NAME = "requests.jsonl"
SUMMARY_NAME = "requests_summary.csv"
NAMES = (REQUESTS, JSONL_NAME, SUMMARY_NAME)
FORMAT = 1
METADATA_KEY = b"tokenfleet"
REASONS = ("unspecified", "stop", "length")
"""Names of the values of FinishReason, in order."""
_ROW_GROUP_ROWS = 1 << 17
_JSONL_ROWS = 4096
_MAX_ID_LEN = 100
_INT32 = ("sample", "worker", "stream", "prompt_tokens", "answer_tokens", "losses")
COLUMNS = (
    "query",
    "sample",
    "worker",
    "stream",
    "prompt_tokens",
    "answer_tokens",
    "finish_reason",
    "losses",
    "continued",
    *TIME_COLUMNS,
    "clock_error_ns",
)
_Column = NDArray[np.int64]


class ForeignFileError(ValueError):
    """A file that lies beside a run.json is not of that run; one line."""


@contextlib.contextmanager
def open_parquet(path: Path, run_id: object) -> Iterator[pq.ParquetFile]:
    """Open a file that the run of a run.json has written, to read its columns in a `with` block.

    Args:
        path: The file, written by `write_parquet`.
        run_id: That of the run.json beside it.

    Raises:
        OSError: It cannot be read, or is no parquet file; also raised within the block.
        ForeignFileError: Another run or another program has written it, for example with equal column names.
    """
    try:
        # An open file: pyarrow parses a path with a colon as a URI.
        with open_regular(path) as source, pq.ParquetFile(source) as file:
            _check_owner(path, file.schema_arrow, run_id)
            yield file
    except pa.ArrowException as error:
        raise OSError(errno.EINVAL, str(error), str(path)) from error


def _check_owner(path: Path, schema: pa.Schema, run_id: object) -> None:
    try:
        facts = parse_json((schema.metadata or {})[METADATA_KEY])
        owner = facts["run_id"]  # type: ignore[index]  # TypeError if it is no object
    except (KeyError, TypeError, ValueError) as error:
        raise ForeignFileError(f"{path}: names no run: another program has written it") from error
    if owner != run_id:
        names = " and ".join(printable(str(name), _MAX_ID_LEN) for name in (owner, run_id))
        raise ForeignFileError(f"{path} and the {RECORD} beside it are of two runs, {names}")
    if len(set(schema.names)) < len(schema.names):
        raise ForeignFileError(f"{path}: has two columns of one name: another program has written it")


def check_integers(path: Path, table: pa.Table, names: Iterable[str]) -> None:
    """Require columns of integers without nulls, as a run writes them.

    Args:
        path: The file of the table.
        table: Its rows.
        names: Of the columns.

    Raises:
        ForeignFileError: Names the column: another program has written the file.
    """
    for name in names:
        if name not in table.column_names:
            raise ForeignFileError(f"{path}: has no column {name}")
        column = table.column(name)
        if not pa.types.is_integer(column.type) or column.null_count:
            raise ForeignFileError(f"{path}: the column {name} is not of integers without nulls")


def to_table(records: RequestRecords) -> pa.Table:
    """Convert requests to a table with COLUMNS."""
    return pa.table({name: _to_array(name, records.columns) for name in COLUMNS})


def _to_array(name: str, columns: Mapping[str, _Column]) -> pa.Array:
    if name == "continued":
        return to_booleans(columns["losses"] > 0)
    column = columns[name]
    if name == "finish_reason":
        return pa.DictionaryArray.from_arrays(to_arrow(column.astype(np.int8)), to_texts(REASONS))
    if name in _INT32:
        return to_arrow(column.astype(np.int32))
    known = is_known(column)
    return to_arrow(column, None if known.all() else known)


def write_requests(path: Path, records: RequestRecords, metadata: Mapping[str, object]) -> None:
    """Write requests.parquet as write_parquet does."""
    write_parquet(path, to_table(records), metadata, ["finish_reason"])


def write_parquet(
    path: Path, table: pa.Table, metadata: Mapping[str, object], dictionary_columns: list[str] | bool = True
) -> None:
    """Write a table whole or not at all.

    Args:
        path: Where.
        table: The rows.
        metadata: Identifies the run; stored with the format as JSON in the metadata of the schema.
        dictionary_columns: Columns that are stored as indices of their values, or whether all are.

    Raises:
        OSError: It cannot be written.
    """
    facts = json.dumps({"format": FORMAT, **metadata}).encode()
    # An open file: pyarrow parses a path with a colon as a URI.
    with whole_file(path) as partial, partial.open("wb") as file:
        pq.write_table(
            table.replace_schema_metadata({METADATA_KEY: facts}),
            file,
            row_group_size=_ROW_GROUP_ROWS,
            compression="zstd",
            use_dictionary=dictionary_columns,
        )


def write_jsonl(path: Path, requests: Path) -> None:
    """Write the rows of requests.parquet as JSON lines, whole or not at all, in bounded memory.

    Raises:
        OSError: A file cannot be read or written.
    """
    with (
        whole_file(path) as partial,
        requests.open("rb") as source,
        partial.open("w", encoding="utf-8") as file,
    ):
        for batch in pq.ParquetFile(source).iter_batches(_JSONL_ROWS):
            file.writelines(f"{json.dumps(row)}\n" for row in batch.to_pylist())


def write_summary(path: Path, records: RequestRecords) -> None:
    """Write the distributions of all quantities as CSV, whole or not at all: one line per quantity.

    Raises:
        OSError: It cannot be written.
    """
    text = io.StringIO()
    names = [f"p{q:g}" for q in PERCENTILES]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["metric", "unit", "count", "mean", "min", *names, "max"])
    for (name, unit), values in _quantities(records).items():
        writer.writerow([name, unit, len(values), *_spread(values)])
    with whole_file(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")


def _spread(values: NDArray[np.float64]) -> list[str]:
    if not len(values):
        return [""] * (len(PERCENTILES) + 3)
    ordered = np.sort(values)
    marks = [ordered[percentile_rank(len(ordered), q / 100)] for q in PERCENTILES]
    return [f"{value:.15g}" for value in (values.mean(), ordered[0], *marks, ordered[-1])]


def _quantities(records: RequestRecords) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Return every quantity with its unit, (N,) for the requests that have it."""
    columns = records.columns
    found: dict[tuple[str, str], NDArray[np.float64]] = {}
    for start in ("scheduled_ns", "issued_ns"):
        label = f"from_{start.removesuffix('_ns')}"
        found[f"ttft_{label}", "ns"] = _between(columns, start, "first_reported_ns")
        found[f"latency_{label}", "ns"] = _between(columns, start, "done_reported_ns")
    several = columns["answer_tokens"] > 1
    steps = np.where(several, columns["answer_tokens"] - 1, 1)
    tpot = _difference(columns, "first_reported_ns", "done_reported_ns") / steps
    found["tpot", "ns"] = tpot[several & ~np.isnan(tpot)]
    parts, complete = ttft_parts(records)
    for name, times in parts.items():
        found[f"ttft_{name.replace(' ', '_')}", "ns"] = times[complete]
    for name in ("prompt_tokens", "answer_tokens"):
        found[name, "tokens"] = columns[name].astype(np.float64)
    errors = columns["clock_error_ns"]
    found["clock_error", "ns"] = errors[errors != UNKNOWN_NS].astype(np.float64)
    return found


def _between(columns: Mapping[str, _Column], begin: str, end: str) -> NDArray[np.float64]:
    times = _difference(columns, begin, end)
    known: NDArray[np.float64] = times[~np.isnan(times)]
    return known


def _difference(columns: Mapping[str, _Column], begin: str, end: str) -> NDArray[np.float64]:
    """Return the time between two marks, (R,); NaN where one is unknown."""
    known = is_known(columns[begin]) & is_known(columns[end])
    return np.where(known, columns[end] - columns[begin], np.nan)
