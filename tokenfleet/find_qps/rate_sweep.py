"""A curve of rates: TTFT, TPOT and tokens/s at each, as a table, CSV, parquet and a plot."""

import csv
import io
import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.atomic_files import replace_files, whole_file
from tokenfleet.find_qps.search_plan import PlannedSearchRun, SearchPlan
from tokenfleet.find_qps.search_results import full_length_ratio_of, read_finished

CSV_NAME, PARQUET_NAME, PLOT_NAME = "sweep.csv", "sweep.parquet", "sweep.svg"
_CURVE, _LIMIT = "#2a66a8", "#b4281e"
_HEADINGS = ("queries/s", "done/s", "tokens/s", "TTFT p50", "p99 ms", "TPOT p50", "p99 ms", "of limit")
_FORMATS = (".4g", ".4g", ",.1f", ",.1f", ",.1f", ",.2f", ",.2f", ".3f")


class SweepRow(NamedTuple):
    """One rate of a sweep; latencies are LoadGen's."""

    target_qps: float
    completed_qps: float
    tokens_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    tpot_p99_ms: float
    limit_ratio: float
    """Latency over its limit that decides a run of full length; at most 1: VALID."""


def sweep_rates(min_qps: float, max_qps: float, num: int) -> list[float]:
    """Return rates from the lowest to the highest, each a constant factor above the one before."""
    factor = math.log(max_qps / min_qps) / (num - 1)
    inner = [float(f"{min_qps * math.exp(factor * index):.4g}") for index in range(1, num - 1)]
    return [min_qps, *inner, max_qps]


def read_sweep_row(plan: SearchPlan, run: PlannedSearchRun) -> SweepRow | None:
    """Read a run of a sweep; None if it has to be run again.

    Raises:
        RefusedRunError: It is INVALID for a reason that is not of its length.
    """
    found = read_finished(plan, run)
    if found is None:
        return None
    figures, latencies = found.record["loadgen"], found.record["loadgen_latencies"]
    ttft_ms, tpot_ms = (
        {mark: float(latencies[name]["percentiles"][mark]) / 1e6 for mark in ("p50", "p99")}
        for name in ("ttft_ns", "tpot_ns")
    )
    return SweepRow(
        run.target_qps,
        float(figures["result_completed_samples_per_sec"]),
        float(figures["result_completed_tokens_per_second"]),
        ttft_ms["p50"],
        ttft_ms["p99"],
        tpot_ms["p50"],
        tpot_ms["p99"],
        full_length_ratio_of(plan, run, found),
    )


def format_sweep(rows: Sequence[SweepRow]) -> str:
    """Format the table."""
    cells = [_HEADINGS, *(tuple(map(format, row, _FORMATS)) for row in rows)]
    return "\n".join("  ".join(f"{cell:>9}" for cell in line) for line in cells)


def write_sweep(plan: SearchPlan, rows: Sequence[SweepRow]) -> None:
    """Write the three files, each whole or not at all.

    Raises:
        OSError: A file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([SweepRow._fields, *rows])
    replace_files(plan.directory, {CSV_NAME: text.getvalue()})
    replace_files(plan.directory, {PLOT_NAME: _draw(plan, rows)})
    # An open file: pyarrow parses a path with a colon as a URI.
    with whole_file(plan.directory / PARQUET_NAME) as partial, partial.open("wb") as file:
        pq.write_table(pa.Table.from_pylist([row._asdict() for row in rows]), file)


def _draw(plan: SearchPlan, rows: Sequence[SweepRow]) -> str:
    """Draw TTFT and TPOT over the rate with their limits, and all users' tokens/s over one user's."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sweep", "font.size": 10}):
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        ttft, tpot, pareto = figure.subplots(1, 3)
        rates = [row.target_qps for row in rows]
        _curve(ttft, rates, [row.ttft_p99_ms for row in rows], ("target_qps", "TTFT p99, ms"))
        _curve(tpot, rates, [row.tpot_p99_ms for row in rows], ("target_qps", "TPOT p99, ms"))
        for axes, limit_ns in ((ttft, plan.ttft_limit_ns), (tpot, plan.tpot_limit_ns)):
            axes.set_yscale("log")
            axes.axhline(limit_ns / 1e6, color=_LIMIT, linestyle="--", linewidth=1)
        users = [1000 / max(row.tpot_p50_ms, 1e-6) for row in rows]
        _curve(pareto, users, [row.tokens_per_s for row in rows], ("tokens/s of one query", "tokens/s"))
        for user, row in zip(users, rows, strict=True):
            pareto.annotate(f"{row.target_qps:.3g}", (user, row.tokens_per_s), fontsize=8)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _curve(axes: Axes, x: Sequence[float], y: Sequence[float], labels: tuple[str, str]) -> None:
    axes.plot(x, y, marker="o", color=_CURVE)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(alpha=0.3)
