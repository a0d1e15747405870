"""Makes the report of one run: reads its files, draws the charts, writes the page and the plots."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from common.atomic_files import replace_files, whole_file
from sut.results.report.chart_drawing import draw
from sut.results.report.page import Content, compose
from sut.results.report.run_charts import RunCharts
from sut.results.report.run_columns import MissingFileError, RunColumns, read_requests, read_timeline
from sut.results.report.run_json import RunJson


def write_report(run_dir: Path, page: Path, plots: Path | None) -> None:
    """Write the page, and the plots as SVG and PNG if a directory is given; all of them whole or none.

    Raises:
        ValueError: The directory holds no run that has ended, or files of two runs.
        OSError: A file cannot be written.
    """
    record = RunJson.read(run_dir)
    missing: list[str] = []
    requests = _read(read_requests, run_dir, record, missing)
    timeline = _read(read_timeline, run_dir, record, missing)
    charts = RunCharts.of(record, requests, timeline)
    drawings = {chart.name: draw(chart, png=plots is not None) for chart in charts.all}
    content = Content(record, requests, missing, charts, drawings)
    # The plots get their names when all files have been written.
    with contextlib.ExitStack() as files:
        if plots is not None:
            plots.mkdir(parents=True, exist_ok=True)
            for name, drawing in drawings.items():
                files.enter_context(whole_file(plots / f"{name}.svg")).write_text(drawing.svg, "utf-8")
                files.enter_context(whole_file(plots / f"{name}.png")).write_bytes(drawing.png)
        replace_files(page.parent, {page.name: compose(content)})


def _read(
    read: Callable[[Path, str], RunColumns], run_dir: Path, record: RunJson, missing: list[str]
) -> RunColumns | None:
    try:
        return read(run_dir, record.text("run_id"))
    except MissingFileError as error:
        missing.append(str(error))
        return None
