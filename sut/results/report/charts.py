"""Describes the charts of a report, without drawing them."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from sut.results.report.run_columns import Floats, Ints

NUM_HISTOGRAM_BINS = 48
# A wider range than this needs a logarithmic axis to be readable.
_LINEAR_RANGE = 12


class Colour(StrEnum):
    """Role of a colour; its value in each theme is in chart_style."""

    INK = "ink"
    MUTED = "muted"
    GRID = "grid"
    BLUE = "blue"
    ORANGE = "orange"
    GREEN = "green"
    RED = "red"
    PURPLE = "purple"
    TEAL = "teal"
    GOLD = "gold"
    GREY = "grey"


class Line(NamedTuple):
    """One line over time, with a band around it if `low` and `high` are given."""

    label: str
    values: Floats
    """(N,); NaN where unknown."""
    colour: Colour
    low: Floats | None = None
    high: Floats | None = None


class Mark(NamedTuple):
    """A labelled line across the chart at one value."""

    label: str
    value: float
    colour: Colour


class Span(NamedTuple):
    """Something that happened: from a time, for a time."""

    kind: str
    began_s: float
    seconds: float
    colour: Colour


class TimeChart(NamedTuple):
    """Lines over the time since the first query."""

    name: str
    title: str
    unit: str
    times_s: Floats
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    """Limits on the vertical axis."""
    is_log: bool = False
    """Whether the vertical axis is logarithmic."""
    begin_s: float = 0.0
    """Begin of the horizontal axis."""


class Histogram(NamedTuple):
    """Shares of requests by value."""

    name: str
    title: str
    unit: str
    edges: Floats
    """(B + 1,)"""
    shares: Floats
    """(B,) in percent."""
    marks: Sequence[Mark]
    is_log: bool

    @classmethod
    def of(cls, name: str, title: str, unit: str, values: Floats, marks: Sequence[Mark]) -> "Histogram":
        """Bin values, (N,) of at least one; the axis covers the values and all marks."""
        covered = [float(values.min()), float(values.max()), *(mark.value for mark in marks)]
        low, high = min(covered), max(covered)
        is_log = low > 0 and high / low > _LINEAR_RANGE
        edges = _edges(low, high, is_log=is_log)
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        return cls(name, title, unit, edges, counts / len(values) * 100, marks, is_log)


class StackedBars(NamedTuple):
    """Horizontal bars, each the sum of named parts."""

    name: str
    title: str
    unit: str
    rows: Sequence[str]
    labels: Sequence[str]
    parts: Floats
    """(labels, rows)"""


class EventChart(NamedTuple):
    """What happened, in one row per kind, over the time since the first query."""

    name: str
    title: str
    end_s: float
    kinds: Sequence[str]
    spans: Sequence[Span]


Chart = TimeChart | Histogram | StackedBars | EventChart


def _edges(low: float, high: float, *, is_log: bool) -> Floats:
    """Return the edges of equal bins, on a logarithmic axis of equal ratios."""
    if is_log:
        return np.geomspace(low * 0.999, high * 1.001, NUM_HISTOGRAM_BINS + 1)
    margin = max((high - low) * 0.02, abs(high) * 1e-6, 1e-9)
    return np.linspace(
        max(low - margin, 0.0) if low >= 0 else low - margin, high + margin, NUM_HISTOGRAM_BINS + 1
    )


def hover_data(chart: Chart) -> dict[str, object] | None:
    """Return the values that the page shows under the pointer; None for charts whose table is beside them."""
    if isinstance(chart, TimeChart):
        return {
            "xs": _rounded(chart.times_s),
            "unit": "s",
            "series": [
                {"label": line.label, "unit": chart.unit, "values": _rounded(line.values)}
                for line in chart.lines
            ],
        }
    if isinstance(chart, Histogram):
        series = {"label": "share of requests", "unit": "%", "values": _rounded(chart.shares)}
        middles = np.sqrt(chart.edges[1:] * chart.edges[:-1]) if chart.is_log else _middles(chart.edges)
        return {"xs": _rounded(middles), "unit": chart.unit, "log": chart.is_log, "series": [series]}
    return None


def _middles(edges: Floats) -> Floats:
    return (edges[1:] + edges[:-1]) / 2


def _rounded(values: Floats | Ints) -> list[float | None]:
    """Round to five digits; unknown values are null."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.tolist()]
