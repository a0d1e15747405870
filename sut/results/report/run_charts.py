"""Makes the charts of one run from its columns."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from common.json_document import is_number
from sut.results.loadgen_figures import TPOT_P99, TTFT_P99
from sut.results.report.charts import Chart, Colour, Histogram, Line, Mark, TimeChart
from sut.results.report.event_section import event_chart
from sut.results.report.latency_sections import part_chart
from sut.results.report.markup import NS_AS_MS
from sut.results.report.request_figures import (
    Quantity,
    latency_ns,
    lengths,
    scheduled_ttft_ns,
    tpot_ns,
    ttft_ns,
)
from sut.results.report.run_columns import Ints, RunColumns
from sut.results.report.run_json import RunJson
from sut.results.report.tail import Tail
from sut.results.report.time_bins import (
    COORDINATOR,
    MAX_BINS,
    Band,
    TimeBins,
    counter_rate,
    gauge,
    num_unfinished,
    token_rate,
)
from sut.results.timing.spread import percentile
from sut.settings import Scenario

TARGET_RATES = ("result_completed_samples_per_sec", "result_samples_per_second")
_GIB = 1 << 30
_READING_INTERVAL_NS = 1_500_000_000
"""Longest time between two rows of a worker in timeline.parquet, of which there is one a second."""


def limit_marks(record: RunJson, figure: str) -> list[Mark]:
    """Return LoadGen's limit of a p99 in ms as a mark; none in a run without limits."""
    value = record.get("loadgen_bounds", figure, "value")
    if not is_number(value):
        return []
    return [Mark(f"limit {value / NS_AS_MS.divisor:,g} ms", value / NS_AS_MS.divisor, Colour.RED)]


def distribution_charts(record: RunJson, requests: RunColumns) -> Iterator[Histogram]:
    """Make the histograms of TTFT, TPOT, latency and lengths, as far as any request has them."""
    limits = limit_marks(record, TTFT_P99)
    if requests.has("scheduled_ns", "first_reported_ns"):
        yield from _times(
            "ttft_scheduled", "TTFT from schedule to report", scheduled_ttft_ns(requests), limits
        )
    yield from _times("ttft", "TTFT from issue", ttft_ns(requests), limits)
    yield from _times("tpot", "TPOT", tpot_ns(requests), limit_marks(record, TPOT_P99))
    yield from _times("latency", "Latency from issue", latency_ns(requests), [])
    for column, title in (("answer_tokens", "Answer length"), ("prompt_tokens", "Prompt length")):
        found = lengths(requests, column)
        if len(found.values):
            values = found.values.astype(np.float64)
            yield Histogram.of(column, title, "tokens", values, [*_marks(found, 1.0)])


def _times(name: str, title: str, found: Quantity, limits: Sequence[Mark]) -> Iterator[Histogram]:
    if len(found.values):
        values_ms = found.values / NS_AS_MS.divisor
        yield Histogram.of(name, title, "ms", values_ms, [*_marks(found, NS_AS_MS.divisor), *limits])


def _marks(found: Quantity, divisor: float) -> Iterator[Mark]:
    for share, name, shade in ((0.5, "p50", Colour.GREEN), (0.99, "p99", Colour.ORANGE)):
        value = percentile(found.values, share) / divisor
        digits = 0 if divisor == 1 else max(0, 3 - int(math.log10(max(value, 1))))
        yield Mark(f"{name} {value:,.{digits}f}", value, shade)


def request_charts(record: RunJson, requests: RunColumns) -> Iterator[TimeChart]:
    """Make the charts over time that requests.parquet alone gives."""
    done = requests.known("issued_ns", "done_arrival_ns")
    if not done.any():
        return
    issued, ended = requests.ints["issued_ns"][done], requests.ints["done_arrival_ns"][done]
    end_ns = int(ended.max())
    bins = TimeBins.over(end_ns, _queries_per_bin(len(ended)) * end_ns / len(ended))
    rates = [Line("completed", bins.per_second(ended), Colour.BLUE)]
    # Offline issues all queries at once.
    if not_offline := record.text("scenario") != Scenario.OFFLINE:
        rates.insert(0, Line("issued", bins.per_second(issued), Colour.GREY))
    times = bins.middles_s
    yield TimeChart("request_rate", "Queries", "queries/s", times, rates, _target(record))
    if not_offline:
        yield from _ttft_over_time(record, requests, bins)
    fine = TimeBins.over(end_ns)
    unfinished = Line("not complete", num_unfinished(fine, issued, ended).astype(np.float64), Colour.BLUE)
    # Elsewhere `in flight` are those at workers alone.
    title = "Queries issued and not complete"
    yield TimeChart("unfinished", title, "queries", fine.middles_s, [unfinished])


def _queries_per_bin(num: int) -> float:
    """Return how many queries a bin has on average at least: 100 for a p99, fewer in short runs."""
    return min(100.0, max(10.0, num / 24))


def _target(record: RunJson) -> list[Mark]:
    for figure in TARGET_RATES:
        value = record.get("loadgen_bounds", figure, "value")
        if is_number(value):
            return [Mark(f"target {value:,g}", float(value), Colour.RED)]
    return []


def _ttft_over_time(record: RunJson, requests: RunColumns, bins: TimeBins) -> Iterator[TimeChart]:
    rows = requests.known("issued_ns", "first_arrival_ns")
    if not rows.any():
        return
    issued = requests.ints["issued_ns"][rows]
    ttft_us = (requests.ints["first_arrival_ns"][rows] - issued) // 1000
    lines = [
        Line(label, bins.percentiles(issued, ttft_us, share) / 1000, colour)
        for label, share, colour in (("p50", 0.5, Colour.GREEN), ("p99", 0.99, Colour.ORANGE))
    ]
    marks = limit_marks(record, TTFT_P99)
    title = "TTFT by time of issue"
    yield TimeChart("ttft_over_time", title, "ms", bins.middles_s, lines, marks, is_log=bool(marks))


def token_chart(requests: RunColumns | None, timeline: RunColumns | None) -> Iterator[TimeChart]:
    """Make the chart of tokens/s: by the coordinator's counter, or else spread from the requests."""
    if timeline is not None and len(own := _coordinator_rows(timeline)):
        times, totals = timeline.ints["time_ns"][own], timeline.ints["tokens"][own]
        bins = TimeBins.over(int(times.max()), _READING_INTERVAL_NS)
        rate = counter_rate(bins, times, totals)
    elif requests is not None and requests.has("first_arrival_ns", "done_arrival_ns", "answer_tokens"):
        bins = TimeBins.over(int(requests.ints["done_arrival_ns"].max()))
        rate = token_rate(bins, requests)
    else:
        return
    line = Line("received", rate, Colour.BLUE)
    yield TimeChart("token_rate", "Output tokens", "tokens/s", bins.middles_s, [line])


def _coordinator_rows(timeline: RunColumns) -> Ints:
    rows = timeline.known("time_ns", "tokens") & (timeline.ints["worker"] == COORDINATOR)
    found: Ints = np.flatnonzero(rows)
    return found[np.argsort(timeline.ints["time_ns"][found], kind="stable")]


class _Gauges:
    """The workers' readings over time."""

    def __init__(self, timeline: RunColumns) -> None:
        rows = timeline.known("time_ns", "worker") & (timeline.ints["worker"] != COORDINATOR)
        self._timeline, self._rows = timeline, rows
        self._times_ns = timeline.ints["time_ns"][rows]
        self.num = len(self._times_ns)
        self.bins = TimeBins.over(int(self._times_ns.max()) if self.num else 0, _READING_INTERVAL_NS)

    def band(self, column: str, scale: float = 1.0) -> Band | None:
        """Describe one column over the workers; None if no worker told it."""
        values = self._timeline.floats[column][self._rows] * scale
        if not np.isfinite(values).any():
            return None
        return gauge(self.bins, self._times_ns, self._timeline.ints["worker"][self._rows], values)

    def spread(
        self, column: str, title: str, unit: str, colour: Colour, scale: float = 1.0
    ) -> Iterator[TimeChart]:
        """Make a chart of the workers' mean within the band from their lowest to their highest."""
        band = self.band(column, scale)
        if band is not None:
            line = Line("mean of the workers, lowest to highest", band.mean, colour, band.low, band.high)
            yield TimeChart(column, title, unit, self.bins.middles_s, [line])


def gauge_charts(timeline: RunColumns) -> Iterator[TimeChart]:
    """Make the charts of the workers' engines and GPUs, as far as any worker told them."""
    gauges = _Gauges(timeline)
    if not gauges.num:
        return
    lines = list(_load_lines(gauges))
    if lines:
        yield TimeChart("engine_load", "Requests at the engines", "requests", gauges.bins.middles_s, lines)
    yield from gauges.spread("kv_use", "KV cache in use", "%", Colour.PURPLE, 100.0)
    power = gauges.band("gpu_power_w")
    if power is not None:
        total = Line("GPUs on the workers' machines", power.total, Colour.ORANGE)
        yield TimeChart("gpu_power_w", "GPU power", "W", gauges.bins.middles_s, [total])
    yield from gauges.spread("gpu_clock_mhz", "GPU clock", "MHz", Colour.TEAL)
    yield from gauges.spread("gpu_temperature_c", "GPU temperature", "degrees C", Colour.RED)
    yield from gauges.spread("gpu_memory_bytes", "GPU memory of a worker", "GiB", Colour.GOLD, 1 / _GIB)


def _load_lines(gauges: _Gauges) -> Iterator[Line]:
    shades = {"running": Colour.BLUE, "waiting": Colour.ORANGE}
    for column, colour in shades.items():
        if (band := gauges.band(column)) is not None:
            yield Line(f"{column}, all workers", band.total, colour)


def tail_chart(record: RunJson, requests: RunColumns) -> Iterator[TimeChart]:
    """Make the chart of the workers that still had requests, from shortly before the first of them ended."""
    tail = Tail.of(requests, record.num_entries("summary", "workers"))
    if tail is None or len(tail.ends_ns) < 2:
        return
    ends_s = tail.ends_ns / 1e9
    first, last = float(ends_s.min()), float(ends_s.max())
    begin = max(0.0, first - 0.2 * (last - first) - 0.01 * last)
    times_s = np.linspace(begin, last, MAX_BINS)
    busy = np.count_nonzero(ends_s[:, np.newaxis] > times_s, axis=0).astype(np.float64)
    line = Line("not yet at their last completion", busy, Colour.BLUE)
    yield TimeChart("busy_workers", "Workers at the end", "workers", times_s, [line], begin_s=begin)


class RunCharts(NamedTuple):
    """The charts of one run, by section of the page."""

    distributions: list[Chart]
    series: list[Chart]
    parts: list[Chart]
    tail: list[Chart]
    events: list[Chart]

    @classmethod
    def of(cls, record: RunJson, requests: RunColumns | None, timeline: RunColumns | None) -> "RunCharts":
        """Make the charts for which the run has data."""
        series: list[Chart] = [*token_chart(requests, timeline)]
        series += [] if requests is None else request_charts(record, requests)
        series += [] if timeline is None else gauge_charts(timeline)
        distributions = [] if requests is None else distribution_charts(record, requests)
        ends_s = [float(chart.times_s[-1]) for chart in series if isinstance(chart, TimeChart)]
        wall_s = record.get("wall_s")
        end_s = max([*ends_s, wall_s if isinstance(wall_s, float) and is_number(wall_s) else 0.0])
        tail = [] if requests is None else tail_chart(record, requests)
        return cls([*distributions], series, [*part_chart(record)], [*tail], [*event_chart(record, end_s)])

    @property
    def all(self) -> list[Chart]:
        """Every chart."""
        return [*self.distributions, *self.series, *self.parts, *self.tail, *self.events]
