"""Takes TTFT, TPOT and latency apart: how much of each was spent where.

The parts of a request's TTFT and latency are the times between consecutive marks of the request, so they add
up to the whole. Marks that no request of the run has are left out; the part that ends with the next mark then
covers both. TPOT is the time from the report of the first token to that of the last, divided by the number of
tokens less one; its parts are the time between the two tokens in the engine, and by how much the later steps
took longer for the last token than for the first.

The parts of a percentile are means over the requests whose ranks are within WINDOW of the percentile's rank.
The bound on the clocks' error concerns only how the rest is divided between the way to the worker and the way
back: all times in between are differences of one clock.

A request that has lost a worker has the time at it in the part between the marks that two workers told: in
`network out` if it was lost before the first token, else in `decode`, or in `engine` of TPOT. Such requests
are counted for each quantity that holds this time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sut.results.timing.clock_offsets import UNKNOWN_NS
from sut.results.timing.loadgen_schedule import Schedule
from sut.results.timing.request_records import LOST_LATER, RequestRecords, is_known
from sut.results.timing.spread import Spread, percentile_rank

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
WINDOW = 0.005
"""Share of the requests on each side of a percentile's rank whose parts are averaged."""
Column = NDArray[np.int64]

TTFT_MARKS = {
    "issued_ns": "lateness",
    "sent_ns": "coordinator queue",
    "received_ns": "network out",
    "admitted_ns": "engine queue",
    "first_token_ns": "prefill",
    "first_frame_ns": "frame hold",
    "first_arrival_ns": "network back",
    "first_reported_ns": "report",
}
"""Name of the part that ends with each mark, in order; the first part begins when the query was due."""
LATENCY_MARKS = {
    **{mark: part for mark, part in TTFT_MARKS.items() if not mark.startswith("first_")},
    "first_token_ns": "prefill",
    "last_token_ns": "decode",
    "last_frame_ns": "frame hold",
    "done_arrival_ns": "network back",
    "done_reported_ns": "report",
}
TPOT_PAIRS = (
    ("first_token_ns", "last_token_ns", "engine"),
    ("first_frame_ns", "last_frame_ns", "frame hold"),
    ("first_arrival_ns", "done_arrival_ns", "network back"),
    ("first_reported_ns", "done_reported_ns", "report"),
)
"""The same mark of the first and of the last token, in order, and the part that ends with them."""


@dataclass(frozen=True, slots=True)
class PartsOfPercentile:
    """A percentile, and the mean parts of the requests around it."""

    value_ns: int
    """The percentile itself, sorted[int(count * fraction)] as LoadGen takes it."""
    mean_ns: float
    """Mean over the requests around it; the sum of the parts."""
    num_requests: int
    """Number of requests around it."""
    num_continued: int
    """Those among them that have lost a worker while the quantity counted: before the first token for TTFT,
    after it for TPOT. A part of theirs holds the time at the lost worker."""
    clock_error_ns: float
    """Mean bound on the error of the worker's clock."""
    parts_ns: dict[str, float]


@dataclass(frozen=True, slots=True)
class Decomposition:
    """One quantity taken apart."""

    count: int
    """Requests of which all marks are known."""
    num_unknown: int
    """Requests with the quantity of which a mark is not known, and which are left out."""
    mean_parts_ns: dict[str, float]
    percentiles: dict[str, PartsOfPercentile]


@dataclass(frozen=True, slots=True)
class RunDecomposition:
    """TTFT, TPOT and latency of a run, taken apart."""

    begins_with: str
    """scheduled_ns where LoadGen's schedule is known, else issued_ns: LoadGen's lateness is then no part."""
    schedule: Schedule | None
    """How LoadGen's schedule is known; None if it is not."""
    num_contradicting: int
    """Requests whose worker sent times that contradict the coordinator's; they count as unknown."""
    lateness_ns: Spread | None
    """How late LoadGen issued its queries by its own schedule; None if that is not known."""
    quantities: dict[str, Decomposition]
    """ttft_ns, tpot_ns and latency_ns, those that the requests of the run have."""

    @classmethod
    def of(cls, records: RequestRecords, schedule: Schedule | None) -> "RunDecomposition":
        """Take the requests of a run apart; schedule: how the scheduled times among them are known."""
        columns = records.columns
        losses, lost_later = columns["losses"], columns[LOST_LATER]
        found = {
            "ttft_ns": _decompose_chain(columns, TTFT_MARKS, losses > lost_later),
            "tpot_ns": _decompose_tpot(columns, lost_later > 0),
            "latency_ns": _decompose_chain(columns, LATENCY_MARKS, losses > 0),
        }
        quantities = {name: parts for name, parts in found.items() if parts is not None}
        return cls(
            first_mark(columns), schedule, records.num_contradicting, _lateness_ns(columns), quantities
        )


def _lateness_ns(columns: Mapping[str, Column]) -> Spread | None:
    known = is_known(columns["scheduled_ns"])
    return Spread.of((columns["issued_ns"] - columns["scheduled_ns"])[known]) if known.any() else None


def first_mark(columns: Mapping[str, Column]) -> str:
    """Return the mark from which TTFT and latency count."""
    return "scheduled_ns" if is_known(columns["scheduled_ns"]).any() else "issued_ns"


def ttft_parts(records: RequestRecords) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """Take every request's TTFT apart.

    Returns:
        The parts by name, (R,) each in ns, and which requests have all of them, (R,).
    """
    return _chain_parts(records.columns, TTFT_MARKS)


def _decompose_chain(
    columns: Mapping[str, Column], names: Mapping[str, str], continued: NDArray[np.bool_]
) -> Decomposition | None:
    *_, last = names
    has = is_known(columns[last])
    if not has.any():
        return None
    parts, complete = _chain_parts(columns, names)
    kept = {part: times[complete] for part, times in parts.items()}
    errors_ns = columns["clock_error_ns"][complete]
    return _summarize(kept, errors_ns, continued[complete], int(np.count_nonzero(has & ~complete)))


def _decompose_tpot(columns: Mapping[str, Column], continued: NDArray[np.bool_]) -> Decomposition | None:
    has = (columns["answer_tokens"] > 1) & is_known(columns["first_reported_ns"])
    has &= is_known(columns["done_reported_ns"])
    if not has.any():
        return None
    pairs = [pair for pair in TPOT_PAIRS if (is_known(columns[pair[0]]) & is_known(columns[pair[1]])).any()]
    complete = has & _all_known(columns, [mark for pair in pairs for mark in pair[:2]])
    steps = columns["answer_tokens"][complete] - 1
    parts: dict[str, NDArray[np.float64]] = {}
    before = np.zeros(len(steps), np.int64)
    for first, last, name in pairs:
        between = columns[last][complete] - columns[first][complete]
        parts[name] = (between - before) / steps
        before = between
    errors_ns = columns["clock_error_ns"][complete]
    return _summarize(parts, errors_ns, continued[complete], int(np.count_nonzero(has & ~complete)))


def _all_known(columns: Mapping[str, Column], marks: Sequence[str]) -> NDArray[np.bool_]:
    known = np.ones(len(columns["query"]), np.bool_)
    for mark in marks:
        known &= is_known(columns[mark])
    return known


def _chain_parts(
    columns: Mapping[str, Column], names: Mapping[str, str]
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.bool_]]:
    """Return the times between consecutive marks by the name of the part, and which requests have all marks.

    A mark that no request has is left out, and its part joins the next one.
    """
    before = first_mark(columns)
    complete = is_known(columns[before])
    parts: dict[str, NDArray[np.float64]] = {}
    joined: list[str] = []
    for mark, name in names.items():
        known = is_known(columns[mark])
        if mark == before:
            continue
        joined.append(name)
        if known.any():
            parts[" + ".join(joined)] = (columns[mark] - columns[before]).astype(np.float64)
            complete &= known
            before, joined = mark, []
    return parts, complete


def _summarize(
    parts: dict[str, NDArray[np.float64]],
    errors_ns: Column,
    continued: NDArray[np.bool_],
    num_unknown: int,
) -> Decomposition:
    """Describe the parts, errors and losses of the C complete requests, (C,) each."""
    totals = np.sum(list(parts.values()), axis=0)
    errors = np.where(errors_ns == UNKNOWN_NS, 0, errors_ns)
    taken = _TakenApart(parts, totals, np.argsort(totals, kind="stable"), errors, continued)
    percentiles = {f"p{q:g}": _around(taken, q / 100) for q in PERCENTILES if len(totals)}
    means = {name: float(times.mean()) for name, times in parts.items()} if len(totals) else {}
    return Decomposition(len(totals), num_unknown, means, percentiles)


class _TakenApart(NamedTuple):
    """One quantity of C requests."""

    parts: dict[str, NDArray[np.float64]]
    totals: NDArray[np.float64]
    order: Column
    """Indices in the order of the totals."""
    errors: Column
    continued: NDArray[np.bool_]


def _around(taken: _TakenApart, fraction: float) -> PartsOfPercentile:
    """Average the parts of the requests around a percentile."""
    totals, order = taken.totals, taken.order
    num = len(order)
    rank = percentile_rank(num, fraction)
    # The smallest fraction is 0.5, so the window begins behind the first request.
    reach = int(num * WINDOW)
    rows = order[rank - reach : rank + reach + 1]
    return PartsOfPercentile(
        value_ns=round(totals[order[rank]]),
        mean_ns=float(totals[rows].mean()),
        num_requests=len(rows),
        num_continued=int(np.count_nonzero(taken.continued[rows])),
        clock_error_ns=float(taken.errors[rows].mean()),
        parts_ns={name: float(times[rows].mean()) for name, times in taken.parts.items()},
    )
