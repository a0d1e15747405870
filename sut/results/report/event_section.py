"""Section of the page: pauses, losses and continuations on the time axis."""

from collections.abc import Iterator

from common.json_document import is_number
from sut.log_files import RECORD
from sut.results.report.charts import Colour, EventChart, Span
from sut.results.report.markup import (
    COUNT,
    NS_AS_MS,
    NS_AS_S,
    Column,
    Html,
    Number,
    element,
    note,
    number,
    table,
)
from sut.results.report.run_json import RunJson

MAX_ROWS = 100
_LOSSES = ("summary", "losses")
_CONTINUATIONS = ("summary", "continuations")


def event_chart(record: RunJson, end_s: float) -> Iterator[EventChart]:
    """Make the chart of all events whose time is known; none in a run without events.

    Args:
        record: The run.
        end_s: End of the run since its first query.
    """
    spans = [
        *_pause_spans(record),
        *_spans(record, _LOSSES, "loss"),
        *_spans(record, _CONTINUATIONS, "continued"),
    ]
    if spans and end_s > 0:
        kinds = list(dict.fromkeys(span.kind for span in spans))
        yield EventChart("events", "Events by time", end_s, kinds, spans)


def _pause_spans(record: RunJson) -> Iterator[Span]:
    for _, pause in record.entries("pauses"):
        began, duration = pause.get("began_ns"), pause.get("duration_ns")
        if is_number(began) and is_number(duration):
            kind = str(pause.get("kind"))[:20]
            yield Span(f"pause: {kind}", began / 1e9, duration / 1e9, Colour.ORANGE)


def _spans(record: RunJson, path: tuple[str, ...], kind: str) -> Iterator[Span]:
    colour = Colour.RED if kind == "loss" else Colour.BLUE
    for index, event in record.entries(*path):
        at_ns = _since_first_query(record, *path, index)
        if is_number(at_ns.value):
            shown = "moved" if event.get("is_move") is True else kind
            yield Span(shown, at_ns.value / 1e9, 0.0, colour)


def _since_first_query(record: RunJson, *path: str | int) -> Number:
    """Return the time of an event since the first query; run.json has it by the monotonic clock."""
    at, origin = record.number(*path, "at_ns"), record.number("origin_ns")
    source = f"{at.source} - {RECORD}#/origin_ns"
    if is_number(at.value) and is_number(origin.value):
        return Number(at.value - origin.value, source)
    return Number(None, source)


def event_section(record: RunJson, figures: Html) -> Html:
    """Show what disturbed the run.

    Args:
        record: The run.
        figures: The chart.
    """
    parts = [element("h2", "Pauses, losses and continuations"), figures, *_losses(record), *_pauses(record)]
    return element("section", *parts, id="events")


def _losses(record: RunJson) -> Iterator[Html]:
    num = record.num_entries(*_LOSSES)
    if not num:
        yield note("No worker was lost.")
        return
    yield element("h3", "Losses of workers, and requests taken from live ones")
    columns = [
        Column("worker", True),
        Column("lost", True),
        *map(Column, ("at s", "requests", "kept tokens", "tokens prefilled again")),
    ]
    rows = [list(_loss_cells(record, index)) for index, _ in record.entries(*_LOSSES)][:MAX_ROWS]
    yield table([*columns, Column("reason", True)], rows)
    if num > MAX_ROWS:
        yield note(f"{num - MAX_ROWS:,} more are in run.json.")
    moved = Number(record.num_entries(*_CONTINUATIONS), f"{RECORD}#/summary/continuations length")
    yield note("Requests that continued on another worker: ", number(moved, COUNT), " times.")


def _loss_cells(record: RunJson, index: int) -> Iterator[Html]:
    yield element("span", record.text(*_LOSSES, index, "address"))
    yield element("span", "no" if record.get(*_LOSSES, index, "is_move") is True else "yes")
    yield number(_since_first_query(record, *_LOSSES, index), NS_AS_S)
    for name in ("requests", "kept_tokens", "resent_tokens"):
        yield number(record.number(*_LOSSES, index, name), COUNT)
    yield element("span", record.text(*_LOSSES, index, "reason"))


def _pauses(record: RunJson) -> Iterator[Html]:
    """List the longest pauses of the coordinator."""
    if record.get("pauses") is None:
        yield note("run.json does not list the pauses of the coordinator.")
        return
    found = [
        (index, pause) for index, pause in record.entries("pauses") if is_number(pause.get("duration_ns"))
    ]
    if not found:
        yield note("The coordinator had no pause of 10 ms or more.")
        return
    longest = sorted(found, key=lambda entry: -float(str(entry[1]["duration_ns"])))[:10]
    yield element("h3", "Longest pauses of the coordinator")
    columns = [Column("kind", True), Column("at s"), Column("ms")]
    yield table(columns, [list(_pause_cells(record, index)) for index, _ in longest])
    num = Number(record.num_entries("pauses"), f"{RECORD}#/pauses length")
    yield note("Pauses listed in run.json: ", number(num, COUNT), ".")


def _pause_cells(record: RunJson, index: int) -> Iterator[Html]:
    yield element("span", record.text("pauses", index, "kind"))
    yield number(record.number("pauses", index, "began_ns"), NS_AS_S)
    yield number(record.number("pauses", index, "duration_ns"), NS_AS_MS)
