"""When LoadGen's schedule wanted each query: from its trace, or computed again from its seed after the run.

LoadGen counts latencies from the scheduled times but logs them only in its trace. Without a trace the times
between queries follow from the seed and the target rate; when the first query was due follows from LoadGen's
own latencies: its stamps lie between its call and the return of it, and so do the order statistics of both.
If no begin of the schedule satisfies all of LoadGen's figures, the schedule is unknown.

The schedule is never computed before the end of a run: a system under test must not know its lulls
(inference_rules.adoc).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sut.results.loadgen_figures import LoadGenSpread
from sut.results.timing.clock_offsets import UNKNOWN_NS
from sut.results.timing.request_records import RequestRecords, is_known
from sut.results.timing.spread import percentile_rank

MAX_ERROR_NS = 20 * 1_000_000
"""A schedule whose begin is known less exactly counts as unknown."""
_ROUNDING_NS = 1_000
"""LoadGen rounds its mean, and logarithms of two libraries differ in the last bit."""
_SAMPLE = re.compile(
    rb'\{"name":"Sample","cat":"default","ph":"b",[^{}]*"ts":([\d.]+),"args":\{"sample_seq":(\d+),'
    rb'"query_seq":\d+,"sample_idx":\d+,"issue_start_ns":(\d+),"complete_ns":(\d+)\}'
)
Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the scheduled times of a run are known."""

    source: str
    """`trace` or `seed`."""
    error_ns: int
    """Bound on the error that all scheduled times share."""


class Seeded(NamedTuple):
    """What determines the times between queries."""

    seed: int
    target_qps: float
    """0: all queries are due at once (Offline)."""


class _Interval(NamedTuple):
    """Where the begin of the schedule may lie, on the coordinator's clock."""

    least_ns: float
    most_ns: float

    def also(self, least_ns: float, most_ns: float) -> "_Interval":
        return _Interval(max(self.least_ns, least_ns), min(self.most_ns, most_ns))


def due_times(seeded: Seeded, num: int) -> Times:
    """Compute the times of the first `num` queries since the first one, (num,) in ns.

    Source: LoadGen 6.0.17 draws the time between two queries from std::exponential_distribution over
    std::mt19937 (loadgen/utils.h, ScheduleDistribution). libstdc++ computes it as -log(1 - u) / target_qps,
    where u has 53 bits from two draws, low word first (bits/random.tcc, generate_canonical).
    """
    if not seeded.target_qps:
        return np.zeros(num, np.int64)
    # std::mt19937 takes the seed modulo 2**32.
    raw = np.random.RandomState(seeded.seed % 2**32)
    words = raw.randint(0, 2**32, 2 * num, np.uint32).astype(np.float64)
    uniform = np.minimum((words[0::2] + words[1::2] * 2.0**32) / 2.0**64, np.nextafter(1.0, 0.0))
    gaps_ns = (-np.log(1.0 - uniform) / seeded.target_qps * 1e9).astype(np.int64)
    due_ns: Times = np.cumsum(gaps_ns) - gaps_ns
    return due_ns


def add_seeded_schedule(
    records: RequestRecords, seeded: Seeded, loadgens: Mapping[str, LoadGenSpread]
) -> Schedule | None:
    """Fill scheduled_ns of a complete run from LoadGen's seed, if LoadGen's figures confirm it.

    Args:
        records: All requests of the run; `scheduled_ns` is replaced.
        seeded: LoadGen's settings.
        loadgens: LoadGen's ttft_ns and latency_ns, from the scheduled time.

    Returns:
        None if the figures do not confirm the schedule; nothing is changed then.
    """
    columns = records.columns
    num = records.num_rows
    if "latency_ns" not in loadgens or not (columns["query"] == np.arange(num)).all():
        return None
    due_ns = due_times(seeded, num)
    begin = _Interval(-np.inf, float((columns["issued_ns"] - due_ns).min()))
    for name, first, last in (
        ("latency_ns", "done_reported_ns", "done_returned_ns"),
        ("ttft_ns", "first_reported_ns", "first_returned_ns"),
    ):
        known = is_known(columns[first]).all() and is_known(columns[last]).all()
        if name in loadgens and known:
            begin = _narrow(begin, columns[first] - due_ns, columns[last] - due_ns, loadgens[name])
    return _take(records, begin, due_ns, "seed")


def add_traced_schedule(records: RequestRecords, trace: Path) -> Schedule | None:
    """Fill scheduled_ns from LoadGen's trace, where it tells.

    Returns:
        None if the trace tells nothing of these requests; nothing is changed then.

    Raises:
        OSError: The trace cannot be read.
    """
    traced = read_trace(trace)
    columns = records.columns
    rows = np.searchsorted(columns["query"], traced[:, 0])
    rows = np.minimum(rows, records.num_rows - 1)
    found = columns["query"][rows] == traced[:, 0] if records.num_rows else np.zeros(len(traced), np.bool_)
    rows, traced = rows[found], traced[found]
    if not len(rows):
        return None
    _, due_ns, delay_ns, latency_ns = traced.T
    returned_ns = columns["done_returned_ns"][rows]
    told = is_known(returned_ns)
    stamps = (due_ns + latency_ns)[told].astype(np.float64)
    begin = _Interval(-np.inf, float((columns["issued_ns"][rows] - due_ns - delay_ns).min()))
    begin = begin.also(
        float((columns["done_reported_ns"][rows][told] - stamps).max(initial=-np.inf)),
        float((returned_ns[told] - stamps).min(initial=np.inf)),
    )
    all_due_ns = np.full(records.num_rows, UNKNOWN_NS)
    all_due_ns[rows] = due_ns
    return _take(records, begin, all_due_ns, "trace")


def read_trace(path: Path) -> Times:
    """Read the samples of LoadGen's trace.

    Returns:
        (N, 4) sample in the order of issue, scheduled time since the trace's origin, time from then to the
        issue, latency from then; in ns.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        rows = [_numbers(match) for line in file if (match := _SAMPLE.search(line))]
    return np.array(sorted(rows), np.int64).reshape(-1, 4)


def _numbers(match: re.Match[bytes]) -> tuple[int, int, int, int]:
    at_us, sequence, delay_ns, latency_ns = match.groups()
    whole, _, part = at_us.partition(b".")
    return int(sequence), int(whole) * 1000 + int(part[:3].ljust(3, b"0")), int(delay_ns), int(latency_ns)


def _narrow(begin: _Interval, least_ns: Times, most_ns: Times, spread: LoadGenSpread) -> _Interval:
    """Narrow down the begin by LoadGen's figures of a quantity, of which (R,) bounds are known."""
    least, most = np.sort(least_ns), np.sort(most_ns)
    for value, rank in _ranks(spread, len(least)):
        begin = begin.also(least[rank] - value - _ROUNDING_NS, most[rank] - value + _ROUNDING_NS)
    return begin.also(
        float(least.mean()) - spread.mean - _ROUNDING_NS, float(most.mean()) - spread.mean + _ROUNDING_NS
    )


def _ranks(spread: LoadGenSpread, num: int) -> Iterator[tuple[float, int]]:
    """List LoadGen's order statistics of `num` values with their ranks."""
    yield spread.minimum, 0
    yield spread.maximum, num - 1
    for name, value in spread.percentiles.items():
        yield value, percentile_rank(num, float(name[1:]) / 100)


def _take(records: RequestRecords, begin: _Interval, due_ns: Times, source: str) -> Schedule | None:
    """Set the scheduled times if the begin of the schedule is known well enough."""
    width_ns = begin.most_ns - begin.least_ns
    if not 0 <= width_ns <= 2 * MAX_ERROR_NS:
        return None
    begin_ns = round((begin.least_ns + begin.most_ns) / 2)
    records.columns["scheduled_ns"] = np.where(is_known(due_ns), due_ns + begin_ns, UNKNOWN_NS)
    return Schedule(source, round(width_ns / 2))
