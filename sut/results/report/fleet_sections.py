"""Sections of the page: each worker, the tail of the run, and what happened when."""

from collections.abc import Iterator

from sut.results.report.markup import (
    COUNT,
    NS_AS_MS,
    NS_AS_S,
    RATE,
    SHARE,
    Column,
    Html,
    element,
    note,
    number,
    table,
)
from sut.results.report.run_columns import RunColumns
from sut.results.report.run_json import MAX_ENTRIES, RunJson
from sut.results.report.tail import Tail
from sut.settings import Scenario


def worker_section(record: RunJson, requests: RunColumns | None, figures: Html) -> Html:
    """Show the table of workers and the tail of the run."""
    num_workers = record.num_entries("summary", "workers")
    tail = None if requests is None else Tail.of(requests, num_workers)
    rows = [list(_worker_cells(record, index, tail)) for index, _ in record.entries("summary", "workers")]
    if not rows:
        return element("section", element("h2", "Workers"), note("run.json lists no workers."))
    columns = [
        Column("worker", True),
        Column("host", True),
        *map(Column, ("requests", "tokens", "frames", "engine steps", "service mean s", "service p99 s")),
        *map(Column, ("ended s", "idle at end s", "streams", "ping ms", "dropped tokens")),
    ]
    parts = [*_tail(record, tail, figures), element("h3", "Workers"), table(columns, rows, kind="sortable")]
    parts.append(
        note(
            "Service: from sending a query to the worker to the end of its answer, with its time in the "
            "engine's queue, of the queries that lost no worker. Dropped tokens came after their query had "
            "moved to another worker."
        )
    )
    if record.get("summary", "acceptance_length") is not None:
        accepted = number(record.number("summary", "acceptance_length"), RATE)
        parts.append(element("p", "Speculative decoding: ", accepted, " tokens per request and engine step."))
    if num_workers > MAX_ENTRIES:
        parts.append(note(f"{num_workers - MAX_ENTRIES:,} more workers are in run.json."))
    return element("section", element("h2", "Workers and tail"), *parts, id="workers")


def _worker_cells(record: RunJson, index: int, tail: Tail | None) -> Iterator[Html]:
    row = ("summary", "workers", index)
    yield element("span", record.text(*row, "address"))
    yield element("span", record.text(*row, "info", "hostname"))
    for name in ("requests", "tokens", "frames", "engine_steps"):
        yield number(record.number(*row, name), COUNT)
    yield number(record.number(*row, "service_ns", "mean"), NS_AS_S)
    yield number(record.number(*row, "service_ns", "percentiles", "p99"), NS_AS_S)
    yield number(record.number(*row, "ended_ns"), NS_AS_S)
    yield number(tail.idle_ns(index), NS_AS_S) if tail is not None else Html("")
    yield number(record.number(*row, "streams"), COUNT)
    yield number(record.number(*row, "round_trip_ns"), NS_AS_MS)
    yield number(record.number(*row, "dropped_tokens"), COUNT)


def _tail(record: RunJson, tail: Tail | None, figures: Html) -> Iterator[Html]:
    yield element("h3", "Tail")
    if tail is None:
        yield note("The idle time at the end needs requests.parquet of a run with complete requests.")
        return
    text = element(
        "p",
        "The last request ended at ",
        number(tail.end_ns, NS_AS_S, with_suffix=True),
        "; the workers ended at ",
        number(tail.flat_end_ns, NS_AS_S, with_suffix=True),
        " on average. Idle share at the end: ",
        number(tail.idle_share, SHARE, with_suffix=True),
        ". ",
        _flat_finish(record, tail),
    )
    method = (
        "Idle share = 1 - mean(end of each worker) / last end; the gain of a flat finish = last end / "
        "mean(end) - 1. It assumes equal work per second of every worker."
    )
    yield element("div", element("div", text, note(method)), figures, class_="split")


def _flat_finish(record: RunJson, tail: Tail) -> Html:
    """Tell what a flat finish would give where the run decides when its requests are sent."""
    if record.num_entries("summary", "losses"):
        return element(
            "span",
            "Requests were taken from a worker in this run: the time of a lost worker counts as idle, and "
            "what a flat finish would have given is not known.",
        )
    if record.text("scenario") != Scenario.OFFLINE:
        return element("span", "LoadGen's schedule decides when the last query of this scenario comes.")
    gain = number(tail.flat_gain, SHARE, with_suffix=True)
    return element(
        "span", "Had all workers ended together, the run's rate would have been ", gain, " higher."
    )
