"""Draws charts with matplotlib, in the light theme, without a display."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from sut.results.report.chart_style import light
from sut.results.report.charts import Chart, Colour, EventChart, Histogram, StackedBars, TimeChart

# matplotlib's SVG counts 72 units per inch: one unit is one pixel of the page.
_UNITS_PER_INCH = 72
WIDTH, HEIGHT = 460, 250
_LEFT, _RIGHT, _BOTTOM, _TOP = 70, 22, 40, 54
# Names of rows are wider than numbers.
_EXTRA_LEFT: dict[type, int] = {StackedBars: 0, EventChart: 54}
_PNG_DPI = 200
_FEW_POINTS = 12
"""Lines of at most so many points show each point."""
_PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}")
_STACK = (
    *(Colour.GREY, Colour.GOLD, Colour.PURPLE, Colour.ORANGE, Colour.BLUE, Colour.TEAL, Colour.GREEN),
    *(Colour.RED, Colour.MUTED),
)
_RC: dict[Any, Any] = {
    "axes.facecolor": "none",
    "svg.fonttype": "none",
    "font.size": 12,
    "text.color": light(Colour.INK),
    "text.parse_math": False,
    "axes.edgecolor": light(Colour.GREY),
    "axes.labelcolor": light(Colour.MUTED),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": light(Colour.MUTED),
    "ytick.color": light(Colour.MUTED),
    "grid.color": light(Colour.GRID),
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.4,
}


class Drawing(NamedTuple):
    """A drawn chart."""

    svg: str
    png: bytes
    """Empty unless asked for."""
    plot_area: tuple[float, float, float, float]
    """Left, right, top and bottom of the axes, as fractions of the image from its left and top."""
    x_range: tuple[float, float]


def draw(chart: Chart, *, png: bool = False) -> Drawing:
    """Draw a chart."""
    with mpl.rc_context(_RC | {"svg.hashsalt": chart.name}):
        height = _height(chart)
        figure = Figure((WIDTH / _UNITS_PER_INCH, height / _UNITS_PER_INCH), facecolor="none")
        left = _LEFT + _EXTRA_LEFT.get(type(chart), 0)
        top = _TOP + _legend_space(chart)
        box = (left, _BOTTOM, WIDTH - left - _RIGHT, height - _BOTTOM - top)
        axes = figure.add_axes((box[0] / WIDTH, box[1] / height, box[2] / WIDTH, box[3] / height))
        axes.grid(visible=True)
        figure.text(4 / WIDTH, 1 - 17 / height, chart.title, fontsize=13, fontweight="bold")
        _painter(chart)(axes)
        _add_legend(figure, axes, height)
        area = (box[0] / WIDTH, (box[0] + box[2]) / WIDTH, top / height, 1 - _BOTTOM / height)
        return Drawing(_save_svg(figure), _save_png(figure) if png else b"", area, axes.get_xlim())


def _height(chart: Chart) -> int:
    if isinstance(chart, EventChart):
        return _TOP + _BOTTOM + 30 * len(chart.kinds)
    if isinstance(chart, StackedBars):
        return _TOP + _BOTTOM + 30 * len(chart.rows) + _legend_space(chart)
    return HEIGHT


def _legend_space(chart: Chart) -> int:
    """Return the height of the legend's rows after the first."""
    return 16 * ((len(chart.labels) - 1) // 3) if isinstance(chart, StackedBars) else 0


def _painter(chart: Chart) -> Callable[[Axes], None]:
    if isinstance(chart, TimeChart):
        return lambda axes: _paint_lines(axes, chart)
    if isinstance(chart, Histogram):
        return lambda axes: _paint_histogram(axes, chart)
    if isinstance(chart, StackedBars):
        return lambda axes: _paint_bars(axes, chart)
    return lambda axes: _paint_events(axes, chart)


def _paint_lines(axes: Axes, chart: TimeChart) -> None:
    for line in chart.lines:
        colour = light(line.colour)
        if line.low is not None and line.high is not None:
            axes.fill_between(chart.times_s, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        marker = "." if len(chart.times_s) <= _FEW_POINTS else ""
        axes.plot(chart.times_s, line.values, color=colour, label=line.label, marker=marker)
    for mark in chart.marks:
        axes.axhline(mark.value, color=light(mark.colour), linewidth=1.2, linestyle="--", label=mark.label)
    low, high = _value_range(chart)
    axes.set_ylim(low, high)
    axes.set_xlim(chart.begin_s, float(chart.times_s[-1] + chart.times_s[0] - chart.begin_s))
    _name_axes(axes, "s since the first query", chart.unit)
    if chart.is_log:
        axes.set_yscale("log")
        _label_logarithmic(axes.yaxis, high / low)


def _value_range(chart: TimeChart) -> tuple[float, float]:
    """Return the ends of the vertical axis, around all values and marks."""
    ends = [line.values if line.high is None else line.high for line in chart.lines]
    values = np.concatenate([*ends, [mark.value for mark in chart.marks]])
    known = values[np.isfinite(values) & (values > 0)]
    if not len(known):
        return (0.1, 1.0) if chart.is_log else (0.0, 1.0)
    if chart.is_log:
        return float(known.min()) / 1.5, float(known.max()) * 1.5
    return 0.0, float(known.max()) * 1.08


def _paint_histogram(axes: Axes, chart: Histogram) -> None:
    axes.stairs(chart.shares, chart.edges, fill=True, color=light(Colour.BLUE), alpha=0.75)
    for mark in chart.marks:
        is_limit = mark.colour is Colour.RED
        style = "--" if is_limit else "-"
        axes.axvline(mark.value, color=light(mark.colour), linewidth=1.4, linestyle=style, label=mark.label)
    axes.set_xlim(float(chart.edges[0]), float(chart.edges[-1]))
    _name_axes(axes, chart.unit, "% of requests")
    if chart.is_log:
        axes.set_xscale("log")
        _label_logarithmic(axes.xaxis, float(chart.edges[-1] / chart.edges[0]))


def _label_logarithmic(axis: XAxis | YAxis, ratio: float) -> None:
    """Label 1, 2 and 5 of each decade, of many decades only 1."""
    axis.set_major_locator(LogLocator(base=10, subs=(1.0,) if ratio > 300 else (1.0, 2.0, 5.0), numticks=8))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(_PLAIN)


def _paint_bars(axes: Axes, chart: StackedBars) -> None:
    starts = np.zeros(len(chart.rows))
    places = np.arange(len(chart.rows))[::-1]
    for label, values, colour in zip(chart.labels, chart.parts, _STACK, strict=False):
        axes.barh(places, values, left=starts, height=0.62, color=light(colour), label=label)
        starts = starts + values
    axes.set_yticks(places, chart.rows)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(chart.unit, fontsize=11)
    axes.xaxis.set_major_formatter(_PLAIN)


def _paint_events(axes: Axes, chart: EventChart) -> None:
    places = {kind: len(chart.kinds) - 1 - index for index, kind in enumerate(chart.kinds)}
    for span in chart.spans:
        place, colour = places[span.kind], light(span.colour)
        axes.plot([span.began_s], [place], marker="|", markersize=13, color=colour, linestyle="none")
        axes.barh([place], [span.seconds], left=[span.began_s], height=0.4, color=colour)
    axes.set_yticks(list(places.values()), list(places))
    axes.set_ylim(-0.6, len(chart.kinds) - 0.4)
    axes.set_xlim(0, chart.end_s)
    axes.set_xlabel("s since the first query", fontsize=11)


def _name_axes(axes: Axes, horizontal: str, vertical: str) -> None:
    axes.set_xlabel(horizontal, fontsize=11)
    axes.set_ylabel(vertical, fontsize=11)
    # Left of the widest labels, whatever these are.
    axes.yaxis.set_label_coords(-58 / (WIDTH - _LEFT - _RIGHT), 0.5)
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.yaxis.set_major_formatter(_PLAIN)
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _add_legend(figure: Figure, axes: Axes, height: int) -> None:
    """Put the legend in rows between title and axes."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(2 / WIDTH, 1 - 20 / height),
        ncols=4 if len(handles) <= 4 else 3,
        frameon=False,
        fontsize=11.5,
        labelcolor=light(Colour.MUTED),
        handlelength=1.1,
        columnspacing=1.0,
        handletextpad=0.5,
        borderaxespad=0.2,
    )


def _save_svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _save_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PNG_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
