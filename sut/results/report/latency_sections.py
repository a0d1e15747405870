"""Sections of the page: percentiles, LoadGen's own beside ours, and what latencies consist of."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from common.json_document import is_number
from sut.results.loadgen_figures import TPOT_P99, TTFT_P99
from sut.results.report.charts import StackedBars
from sut.results.report.markup import (
    COUNT,
    NS_AS_MS,
    Column,
    Html,
    Number,
    Unit,
    element,
    note,
    number,
    table,
)
from sut.results.report.run_json import RunJson
from sut.settings import Mode, Scenario

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
    _Row("TTFT, LoadGen, from scheduled", ("loadgen_latencies", "ttft_ns"), NS_AS_MS, TTFT_P99),
    _Row("TTFT, ours, from issue", ("summary", "ttft_ns"), NS_AS_MS),
    _Row("Issue lateness, of a thread", ("summary", "issue_lateness_ns"), NS_AS_MS),
    _Row("Issue lateness, by LoadGen's schedule", ("decomposition", "lateness_ns"), NS_AS_MS),
    _Row("TPOT, LoadGen", ("loadgen_latencies", "tpot_ns"), NS_AS_MS, TPOT_P99),
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
        "call (issue). The thread of issue lateness is due every 97 ms: it waits for the "
        "same reasons as LoadGen's. Queued at the coordinator: until the query was sent. Engine "
        "output to LoadGen: from an engine step until its tokens are reported. Each percentile is the value "
        "of one query, sorted[int(count * fraction)]."
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
    yield number(limit, row.unit, trims=True) if is_number(limit.value) else Html("")


def _exceeds(value: object, limit: object) -> bool:
    return is_number(value) and is_number(limit) and value > limit


_QUANTITIES = {"ttft_ns": "TTFT", "tpot_ns": "TPOT", "latency_ns": "Latency"}
_PART_MARKS = ("p50", "p90", "p99", "p99.9")
_SUMS = {"sum, mean of these": "mean_ns", "percentile": "value_ns", "clock error": "clock_error_ns"}
"""Rows below the parts, with their keys in run.json."""
_ENGINE_PARTS = frozenset(["engine", "engine queue", "prefill", "decode"])


def part_chart(record: RunJson) -> Iterator[StackedBars]:
    """Make the chart of what the percentiles of TTFT consist of, in a run that has been taken apart."""
    path = ("decomposition", "quantities", "ttft_ns", "percentiles")
    marks = [mark for mark in _PART_MARKS if record.names(*path, mark, "parts_ns")]
    if not marks:
        return
    labels = record.names(*path, marks[0], "parts_ns")
    values = [[record.get(*path, mark, "parts_ns", label) for mark in marks] for label in labels]
    if all(is_number(value) for row in values for value in row):
        parts = np.array(values, np.float64) / NS_AS_MS.divisor
        yield StackedBars("ttft_parts", "TTFT taken apart", "ms", marks, labels, parts)


def part_section(record: RunJson, figures: Html) -> Html:
    """Show what TTFT, TPOT and latency consist of.

    Args:
        record: The run.
        figures: The charts.
    """
    head = element("h2", "Latencies taken apart")
    tables = [part for name in _QUANTITIES for part in _part_table(record, name)]
    if not tables:
        return element(
            "section", head, note("The times of this run's requests were not taken apart."), id="parts"
        )
    parts = (
        "Engine queue, prefill and decode are the engine's time. Lateness: LoadGen's thread called late. "
        "Coordinator queue: until the query was sent to a worker. Network out and network back: on the way, "
        "with the queues of the connection; a coordinator without a free core takes late what has arrived. "
        "Frame hold: in the worker, until the engine's token was sent. "
        "Report: until LoadGen had the answer."
    )
    text = (
        "Each part is the mean over the requests whose rank is within 0.5 % of the percentile's; the parts "
        "add up to the mean of these requests. TPOT's parts after the engine are what the last token took "
        "longer than the first, per token, and may be negative. The clock error bounds how far time may "
        "belong to the other direction of the network. A request that lost a worker has the time at it in "
        "network out, decode or engine."
    )
    split = element("div", figures, *tables, class_="split")
    notes = (_start_note(record), *_pull_note(record), note(parts), note(text))
    return element("section", head, *_engine_sentences(record), split, *notes, id="parts")


def _engine_sentences(record: RunJson) -> Iterator[Html]:
    """Tell how much of the p99 of TTFT and TPOT is the engine's, where queries do not wait for room."""
    if record.text("scenario") == Scenario.OFFLINE or record.text("mode") == Mode.ACCURACY:
        return
    for name in ("ttft_ns", "tpot_ns"):
        path = ("decomposition", "quantities", name, "percentiles", "p99")
        labels = record.names(*path, "parts_ns")
        own = [label for label in labels if _ENGINE_PARTS.issuperset(label.split(" + "))]
        found = [record.number(*path, "parts_ns", label) for label in own]
        values = [part.value for part in found if is_number(part.value)]
        if found and len(values) == len(found):
            engine = Number(sum(values), " + ".join(part.source for part in found))
            yield element(
                "p",
                f"{_QUANTITIES[name]} p99: ",
                number(engine, NS_AS_MS, with_suffix=True),
                " of ",
                number(record.number(*path, "mean_ns"), NS_AS_MS, with_suffix=True),
                " are the engine's; the rest is LoadGen, coordinator, network and worker.",
            )


def _pull_note(record: RunJson) -> Iterator[Html]:
    """Tell why queries wait where all of them are issued at once."""
    if record.text("scenario") == Scenario.OFFLINE:
        yield note(
            "LoadGen issues all samples of this scenario at once. They wait in the coordinator queue while "
            "the engines are full, so this part is the work before them and no cost of the coordinator."
        )


def _start_note(record: RunJson) -> Html:
    if record.text("decomposition", "begins_with") == "scheduled_ns":
        return note(
            "TTFT and latency begin at the time that LoadGen's schedule wanted; lateness ends with its call."
        )
    return note(
        "TTFT and latency begin with LoadGen's call. LoadGen's lateness before it is not known for each "
        "request of this run; its distribution is measured, in ms: p50 ",
        number(record.number("summary", "issue_lateness_ns", "percentiles", "p50"), NS_AS_MS),
        ", p99 ",
        number(record.number("summary", "issue_lateness_ns", "percentiles", "p99"), NS_AS_MS),
        ".",
    )


def _part_table(record: RunJson, name: str) -> Iterator[Html]:
    """Compose the table of one quantity: a row per part, a column per percentile."""
    path = ("decomposition", "quantities", name)
    marks = [mark for mark in _PART_MARKS if record.names(*path, "percentiles", mark, "parts_ns")]
    if not marks:
        return
    labels = record.names(*path, "percentiles", marks[0], "parts_ns")
    columns = [Column(f"{_QUANTITIES[name]}, ms", True), Column("mean of all"), *map(Column, marks)]
    rows = [
        [
            element("span", label),
            *_part_cells(record, path, ("mean_parts_ns", label), ("parts_ns", label), marks),
        ]
        for label in labels
    ]
    for title, key in _SUMS.items():
        rows.append([element("b", title), *_part_cells(record, path, (), (key,), marks)])
    counts = [record.number(*path, "percentiles", mark, "num_continued") for mark in marks]
    if any(count.value for count in counts):
        cells = [number(count, COUNT) for count in counts]
        rows.append([element("b", "of these lost a worker, number"), Html(""), *cells])
    unknown = record.number(*path, "num_unknown")
    text = note(number(unknown, COUNT), " requests are left out, because a time of theirs is not known.")
    # Latencies have the most digits.
    kind = "wide" if name == "latency_ns" else None
    yield element("div", table(columns, rows), *([text] if unknown.value else []), class_=kind)


def _part_cells(
    record: RunJson, path: tuple[str, ...], mean: tuple[str, ...], key: tuple[str, ...], marks: list[str]
) -> Iterator[Html]:
    yield number(record.number(*path, *mean), NS_AS_MS) if mean else Html("")
    for mark in marks:
        yield number(record.number(*path, "percentiles", mark, *key), NS_AS_MS)
