"""A sample of a run's requests, from requests.parquet."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sut.log_files import REQUESTS
from sut.results.timing.requests_file import COLUMNS, check_integers, open_parquet

PARTS = (
    ("scheduled_ns", "issued_ns", "lateness"),
    ("issued_ns", "sent_ns", "coordinator queue"),
    ("sent_ns", "received_ns", "network out"),
    ("received_ns", "admitted_ns", "engine queue"),
    ("admitted_ns", "first_token_ns", "prefill"),
    ("first_token_ns", "first_frame_ns", "frame hold"),
    ("first_frame_ns", "first_arrival_ns", "network back"),
    ("first_arrival_ns", "first_reported_ns", "report of the first token"),
    ("first_reported_ns", "done_arrival_ns", "decode"),
    ("done_arrival_ns", "done_reported_ns", "report of the answer"),
)
"""Begin, end and name of each part of a request, in order; a time that is not known joins its two parts."""
# What is known of every request that has finished.
_ALWAYS_KNOWN = ("query", "worker", "issued_ns", "done_arrival_ns")
_FIRST = "first_arrival_ns"


class Part(NamedTuple):
    """One part of a request."""

    name: str
    begin_ns: int
    """Since the run's first query was issued."""
    end_ns: int


def read_sample(run_dir: Path, run_id: str, num: int, num_slowest: int) -> list[dict[str, object]]:
    """Read rows of requests.parquet: evenly spaced ones in order of issue, and those with the largest TTFT.

    Args:
        run_dir: The run's directory.
        run_id: That of its run.json.
        num: Number of evenly spaced rows.
        num_slowest: Number of further rows, those with the largest TTFT.

    Raises:
        ValueError: The directory has no such file, or it is not one, or of another run.
    """
    path = run_dir / REQUESTS
    try:
        with open_parquet(path, run_id) as file:
            table = file.read()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    if missing := set(COLUMNS) - set(table.column_names):
        raise ValueError(f"{path}: has no column {min(missing)}")
    check_integers(path, table, _ALWAYS_KNOWN)
    check_integers(path, table.select([_FIRST]).drop_null(), [_FIRST])
    # An answer without tokens has no first one.
    ttft_ns = pc.fill_null(pc.subtract(table[_FIRST], table["issued_ns"]), 0).to_numpy()
    rows = table.take(pa.array(choose_rows(ttft_ns, num, num_slowest)))
    sampled: list[dict[str, object]] = rows.to_pylist()
    return sampled


def choose_rows(ttft_ns: NDArray[np.int64], num: int, num_slowest: int) -> list[int]:
    """Return the rows of a sample, ascending, each once.

    Args:
        ttft_ns: (R,) TTFT of each request.
        num: Number of evenly spaced rows.
        num_slowest: Number of further rows, those with the largest TTFT.
    """
    spaced = np.unique(np.linspace(0, len(ttft_ns) - 1, min(num, len(ttft_ns))).astype(int))
    slowest = np.argsort(-ttft_ns, kind="stable")[:num_slowest]
    return sorted({*spaced.tolist(), *slowest.tolist()})


def parts(row: dict[str, object]) -> Iterator[Part]:
    """List the parts of a request; they follow each other without a gap from its first to its last time.

    A worker's time is mapped to the coordinator's clock and may be off by clock_error_ns. A part that would
    end before it begins has no length.
    """
    names: list[str] = []
    begin_ns = _time(row, PARTS[0][0])
    for _, end, name in PARTS:
        end_ns = _time(row, end)
        names += [name] if begin_ns is not None else []
        if end_ns is not None:
            if begin_ns is not None:
                end_ns = max(begin_ns, end_ns)
                yield Part(", ".join(names), begin_ns, end_ns)
            begin_ns, names = end_ns, []


def _time(row: dict[str, object], name: str) -> int | None:
    value = row[name]
    return value if isinstance(value, int) else None
