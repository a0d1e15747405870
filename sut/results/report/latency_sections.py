"""Sections of the page: percentiles, LoadGen's own beside the coordinator's."""

from collections.abc import Iterator
from typing import NamedTuple

from sut.results.report.markup import (
    COUNT,
    NS_AS_MS,
    Column,
    Html,
    Number,
    Unit,
    element,
    is_number,
    note,
    number,
    table,
)
from sut.results.report.run_charts import TPOT_LIMIT, TTFT_LIMIT
from sut.results.report.run_json import RunJson

_MARKS = ("p50", "p90", "p95", "p99", "p99.9")


class _Row(NamedTuple):
    """One row of the table of percentiles."""

    title: str
    place: tuple[str, ...]
    """Path in run.json of a distribution."""
    unit: Unit
    limit: str = ""
    """LoadGen's figure whose bound is the limit of this row's p99."""


_ROWS = (
    _Row("TTFT, LoadGen, from scheduled", ("loadgen_latencies", "ttft_ns"), NS_AS_MS, TTFT_LIMIT),
    _Row("TTFT, ours, from issue", ("summary", "ttft_ns"), NS_AS_MS),
    _Row("Issue lateness, measured", ("summary", "issue_lateness_ns"), NS_AS_MS),
    _Row("TPOT, LoadGen", ("loadgen_latencies", "tpot_ns"), NS_AS_MS, TPOT_LIMIT),
    _Row("TPOT, ours", ("summary", "tpot_ns"), NS_AS_MS),
    _Row("Latency, LoadGen, from scheduled", ("loadgen_latencies", "latency_ns"), NS_AS_MS),
    _Row("Latency, ours, from issue", ("summary", "latency_ns"), NS_AS_MS),
    _Row("Queued at the coordinator", ("summary", "queued_ns"), NS_AS_MS),
    _Row("Engine output to LoadGen", ("summary", "report_delay_ns"), NS_AS_MS),
    _Row("Answer length, tokens", ("summary", "answer_tokens"), COUNT),
)


def percentile_section(record: RunJson) -> Html:
    """Show the table of percentiles."""
    rows = [list(_cells(record, row)) for row in _ROWS if record.get(*row.place) is not None]
    if not rows:
        return element("section", element("h2", "Percentiles"), note("The run has no percentiles."))
    columns = [Column("ms", True), *map(Column, ("mean", "min", *_MARKS, "max", "p99 limit"))]
    text = (
        "LoadGen counts from the time at which its schedule wanted a query; our figures count from LoadGen's "
        "call. The measured lateness of issue is the difference that a thread with known due times sees. "
        "LoadGen's and our percentiles are values of single queries, sorted[int(count * fraction)]."
    )
    return element(
        "section", element("h2", "Percentiles"), table(columns, rows), note(text), id="percentiles"
    )


def _cells(record: RunJson, row: _Row) -> Iterator[Html]:
    yield element("span", row.title)
    limit = record.number("loadgen_bounds", row.limit, "value") if row.limit else Number(None, "")
    yield number(record.number(*row.place, "mean"), row.unit)
    yield number(record.number(*row.place, "minimum"), row.unit)
    for mark in _MARKS:
        found = record.number(*row.place, "percentiles", mark)
        is_over = mark == "p99" and _exceeds(found.value, limit.value)
        shown = number(found, row.unit)
        yield element("span", shown, class_="over") if is_over else shown
    yield number(record.number(*row.place, "maximum"), row.unit)
    yield number(limit, row.unit) if is_number(limit.value) else Html("")


def _exceeds(value: object, limit: object) -> bool:
    if not isinstance(value, int | float) or not isinstance(limit, int | float):
        return False
    return value > limit
