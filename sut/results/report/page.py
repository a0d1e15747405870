"""Composes the page: one file, with its styles, its script and its charts, that loads nothing."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sut.results.report.chart_drawing import Drawing
from sut.results.report.chart_style import to_themed
from sut.results.report.charts import Chart, hover_data
from sut.results.report.event_section import event_section
from sut.results.report.fleet_sections import worker_section
from sut.results.report.latency_sections import part_section, percentile_section
from sut.results.report.markup import Html, element, joined, note, script_data
from sut.results.report.outcome_sections import configuration_section, verdict_section
from sut.results.report.page_frame import compose_document, page_file
from sut.results.report.run_charts import RunCharts
from sut.results.report.run_columns import RunColumns
from sut.results.report.run_json import RunJson

_LINKS = {
    "verdict": "Verdict",
    "configuration": "What was run",
    "percentiles": "Percentiles",
    "distributions": "Distributions",
    "time": "Over time",
    "parts": "Latencies taken apart",
    "workers": "Workers and tail",
    "events": "Events",
}


class Content(NamedTuple):
    """What a page is made of."""

    record: RunJson
    requests: RunColumns | None
    missing: Sequence[str]
    """Sentences about files that the run does not have."""
    charts: RunCharts
    drawings: Mapping[str, Drawing]
    """By the name of the chart."""

    def figures(self, charts: Sequence[Chart]) -> Html:
        """Compose the charts as figures; nothing without charts."""
        if not charts:
            return Html("")
        parts = [_figure(chart, self.drawings[chart.name]) for chart in charts]
        return element("div", joined(parts), class_="charts")


def compose(content: Content) -> str:
    """Return the page."""
    script = page_file("page.js")
    record = content.record
    title = f"{record.text('scenario')} {record.text('mode')}: {record.text('verdict', 'outcome')}"
    body = joined([_top(record), element("main", *_sections(content)), _bottom(), *_scripts(content, script)])
    return compose_document(title, body, script)


def _top(record: RunJson) -> Html:
    button = element("button", "Theme: auto", id="theme", type="button")
    links = [element("a", text, href=f"#{name}") for name, text in _LINKS.items()]
    name = element("span", "tokenfleet report, ", record.text("run_id"))
    return joined([element("header", name, button), element("nav", *links)])


def _sections(content: Content) -> list[Html]:
    record = content.record
    return [
        verdict_section(record),
        configuration_section(record),
        percentile_section(record),
        _charts("distributions", "Distributions", content, content.charts.distributions),
        _charts("time", "Over time", content, content.charts.series),
        part_section(record, content.figures(content.charts.parts)),
        worker_section(record, content.requests, content.figures(content.charts.tail)),
        event_section(record, content.figures(content.charts.events)),
    ]


def _charts(name: str, title: str, content: Content, charts: Sequence[Chart]) -> Html:
    parts = [content.figures(charts)] if charts else [note("The run has no data for these charts.")]
    return element("section", element("h2", title), *parts, *map(note, content.missing), id=name)


def _figure(chart: Chart, drawing: Drawing) -> Html:
    image = Html(to_themed(drawing.svg))
    return element("figure", image, data_chart=chart.name, role="img", aria_label=chart.title)


def _bottom() -> Html:
    text = (
        "Each number names its file and place in its data-source attribute. The charts are drawn with "
        "Matplotlib (matplotlib.org, Matplotlib license)."
    )
    return element("footer", text)


def _scripts(content: Content, script: str) -> list[Html]:
    found = {}
    for chart in content.charts.all:
        if (data := hover_data(chart)) is not None:
            drawing = content.drawings[chart.name]
            found[chart.name] = {**data, "area": drawing.plot_area, "range": drawing.x_range}
    return [script_data("charts", found), Html(f"<script>{script}</script>")]
