"""One row per finished request, with all its times on the coordinator's clock."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sut.results.timing.clock_offsets import UNKNOWN_NS, ClockOffsets

Times = NDArray[np.int64]
Column = NDArray[np.int64]


class StreamTimes(NamedTuple):
    """Times of the requests that began or ended on one stream to a worker; 0: unknown."""

    worker: int
    stream: int
    """Number of the stream at that worker, from 0."""
    pings: Times
    """(P, 3) sent (ours), answered (worker's), received (ours)."""
    begins: Times
    """(B, 8) query, first arrival, call of LoadGen, its return (ours), frame, received, admitted, first token
    (worker's)."""
    ends: Times
    """(E, 5) query, call of LoadGen, its return (ours), frame, last token (worker's)."""


class RequestRecords(NamedTuple):
    """R finished requests in the order of issue; unknown times are UNKNOWN_NS."""

    columns: dict[str, Column]
    """By name, (R,); see docs/requests.md. Times are in ns since the first query of the run was issued.

    RETURNED_COLUMNS and LOST_LATER are there too; no file has them.
    """
    num_contradicting: int
    """Requests whose worker's times contradict the coordinator's; they count as unknown."""

    @property
    def num_rows(self) -> int:
        """Number of requests."""
        return len(self.columns["query"])


DONE_COLUMNS = {
    "query": "query",
    "sample": "sample",
    "worker": "worker",
    "prompt_len": "prompt_tokens",
    "num_tokens": "answer_tokens",
    "reason": "finish_reason",
    "losses": "losses",
    "issued_ns": "issued_ns",
    "sent_ns": "sent_ns",
    "first_ns": "first_arrival_ns",
    "done_ns": "done_arrival_ns",
}
"""Columns of the coordinator's finished requests, and their names in the records."""
BEGIN_MARKS = ("received_ns", "admitted_ns", "first_token_ns", "first_frame_ns")
END_MARKS = ("last_token_ns", "last_frame_ns")
TIME_COLUMNS = (
    "scheduled_ns",
    "issued_ns",
    "sent_ns",
    *BEGIN_MARKS,
    "first_arrival_ns",
    "first_reported_ns",
    *END_MARKS,
    "done_arrival_ns",
    "done_reported_ns",
)
"""In the order in which a request reaches them."""
RETURNED_COLUMNS = ("first_returned_ns", "done_returned_ns")
"""When LoadGen's call had returned: its own stamp lies between `first_reported_ns` and this."""

LOST_LATER = "lost_later"
"""1 if the request lost a worker after its first token: its answer ended on another stream than it began."""


def build_records(done: NDArray[np.void], streams: Sequence[StreamTimes], origin_ns: int) -> RequestRecords:
    """Bring the times of finished requests together.

    Args:
        done: (R,) finished requests in any order, with the fields of DONE_COLUMNS.
        streams: Every stream of the run.
        origin_ns: When LoadGen issued the first query.
    """
    done = done[np.argsort(done["query"], kind="stable")]
    columns = {name: done[field].astype(np.int64) for field, name in DONE_COLUMNS.items()}
    first_ns = columns["first_arrival_ns"]
    first_ns[first_ns == 0] = UNKNOWN_NS
    for name in (*TIME_COLUMNS, *RETURNED_COLUMNS, "clock_error_ns"):
        columns.setdefault(name, np.full(len(done), UNKNOWN_NS))
    columns["stream"] = np.full(len(done), -1)
    end_error_ns = np.full(len(done), UNKNOWN_NS)
    begun_on, ended_on = np.full((2, len(done)), -1)
    for number, stream in enumerate(streams):
        offsets = ClockOffsets(stream.pings)
        begun_on[_add_begins(columns, stream.begins, offsets)] = number
        ended_on[_add_ends(columns, stream, offsets, end_error_ns)] = number
    is_later = (columns["losses"] > 0) & (begun_on >= 0) & (begun_on != ended_on)
    columns[LOST_LATER] = is_later.astype(np.int64)
    contradicting = _settle_begins(columns) | _settle_ends(columns, end_error_ns)
    columns["clock_error_ns"] = np.maximum(columns["clock_error_ns"], end_error_ns)
    for name in (*TIME_COLUMNS, *RETURNED_COLUMNS):
        columns[name] = np.where(columns[name] == UNKNOWN_NS, UNKNOWN_NS, columns[name] - origin_ns)
    return RequestRecords(columns, int(np.count_nonzero(contradicting)))


def is_known(times: Times) -> NDArray[np.bool_]:
    """Return which times are known, (N,)."""
    known: NDArray[np.bool_] = times != UNKNOWN_NS
    return known


def _rows_of(columns: dict[str, Column], queries: Column) -> tuple[Column, NDArray[np.bool_]]:
    """Return the rows of queries, and which of the queries have one."""
    own = columns["query"]
    rows = np.minimum(np.searchsorted(own, queries), len(own) - 1)
    found = own[rows] == queries if len(own) else np.zeros(len(queries), np.bool_)
    return rows[found], found


def _add_begins(columns: dict[str, Column], begins: Times, offsets: ClockOffsets) -> Column:
    """Add the times of the requests that began on a stream; returns their rows."""
    all_rows, found = _rows_of(columns, begins[:, 0])
    begins = begins[found]
    # An answer that was cut to nothing at the loss of a worker began a second time; the last time counts.
    last = columns["first_arrival_ns"][all_rows] == begins[:, 1]
    rows: Column = all_rows[last]
    begins = begins[last]
    for name, place in (("first_reported_ns", 2), ("first_returned_ns", 3)):
        columns[name][rows] = np.where(begins[:, place] > 0, begins[:, place], UNKNOWN_NS)
    for name, place in zip(BEGIN_MARKS, (5, 6, 7, 4), strict=True):
        columns[name][rows], errors = offsets.to_ours(begins[:, place])
        columns["clock_error_ns"][rows] = np.maximum(columns["clock_error_ns"][rows], errors)
    return rows


def _add_ends(
    columns: dict[str, Column], stream: StreamTimes, offsets: ClockOffsets, errors_ns: Times
) -> Column:
    """Add the times of the requests that ended on a stream; returns their rows."""
    rows, found = _rows_of(columns, stream.ends[:, 0])
    ends = stream.ends[found]
    columns["stream"][rows] = stream.stream
    columns["done_reported_ns"][rows] = ends[:, 1]
    columns["done_returned_ns"][rows] = ends[:, 2]
    for name, place in zip(END_MARKS, (4, 3), strict=True):
        columns[name][rows], errors = offsets.to_ours(ends[:, place])
        errors_ns[rows] = np.maximum(errors_ns[rows], errors)
    return rows


def _settle_begins(columns: dict[str, Column]) -> NDArray[np.bool_]:
    """Bring the times of begins into order within their error; returns which contradict, (R,)."""
    limits = columns["sent_ns"], columns["first_arrival_ns"]
    return _settle(columns, BEGIN_MARKS, limits, columns["clock_error_ns"])


def _settle_ends(columns: dict[str, Column], errors_ns: Times) -> NDArray[np.bool_]:
    first_ns, begin_errors_ns = columns["first_token_ns"], columns["clock_error_ns"]
    earliest = np.where(is_known(first_ns), first_ns, columns["sent_ns"])
    both = np.maximum(errors_ns, 0) + np.maximum(begin_errors_ns, 0)
    return _settle(columns, END_MARKS, (earliest, columns["done_arrival_ns"]), both)


def _settle(
    columns: dict[str, Column], names: Sequence[str], limits: tuple[Times, Times], errors_ns: Times
) -> NDArray[np.bool_]:
    """Move times that are out of order by at most their error; those that are further out become unknown.

    Args:
        columns: Modified in place.
        names: Times of the worker, in their order.
        limits: (R,) the time of ours before the first of them, and the one behind the last.
        errors_ns: (R,) bounds on the error between the two clocks.

    Returns:
        Which rows, (R,), have a time that is further out.
    """
    earliest, latest = limits
    errors_ns = np.maximum(errors_ns, 0)
    wrong = np.zeros(len(earliest), np.bool_)
    before = earliest - errors_ns
    for name in names:
        times = columns[name]
        known = is_known(times)
        wrong |= known & ((times < before) | (times > latest + errors_ns))
        before = np.where(known, times, before)
    for name in names:
        times = columns[name]
        moved = np.minimum(np.maximum(times, earliest), latest)
        columns[name] = np.where(is_known(times) & ~wrong, moved, UNKNOWN_NS)
    return wrong
