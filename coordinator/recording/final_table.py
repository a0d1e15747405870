"""The table that a run prints at its end."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from common.text import print_table, printable
from coordinator.recording.file_thread import FileThread
from coordinator.recording.run_record import RunRecord, Summary
from sut.results.loadgen_figures import Bound, LoadGenSpread
from sut.results.timing.decomposition import RunDecomposition
from sut.results.timing.spread import PERCENTILES, Spread
from sut.results.verdict import Verdict

logger = logging.getLogger(__name__)

SHOW_TIMEOUT_S = 10.0
"""A terminal or pipe that takes no output for longer gets no table."""
MAX_LOSS_LINES = 20
PART_PERCENTILES = ("p50", "p99")
PARTS_PER_LINE = 4
"""The longest four, in hours of milliseconds, take 110 columns."""
MAX_PATH_LEN = 4096


class _Quantity(NamedTuple):
    """Labels of one quantity's rows."""

    ours: str
    loadgens: str


_QUANTITIES = {
    "ttft_ns": _Quantity("ttft from issue", "ttft by LoadGen"),
    "issue_lateness_ns": _Quantity("issue lateness", ""),
    "tpot_ns": _Quantity("tpot", "tpot by LoadGen"),
    "latency_ns": _Quantity("latency from issue", "latency by LoadGen"),
    "report_delay_ns": _Quantity("report delay", ""),
}


def show(record: RunRecord, timeout_s: float) -> None:
    """Print the table on a thread, because stdout may take no output; run.json holds the same."""
    with FileThread() as printing:
        try:
            printing.call(partial(_print, record), timeout_s)
        except TimeoutError as error:
            logger.warning("the table was not printed, run.json holds the same: stdout: %s", error)


def _print(record: RunRecord) -> None:
    """Print the table; a failure to print is only logged, because run.json is on disk."""
    if error := print_table(format_record(record)):
        logger.warning("the table was not printed, run.json holds the same: %s", error)


def format_record(record: RunRecord) -> str:
    """Format a run as a table; its last line is the directory of the results."""
    verdict = record.verdict
    lines = [f"== {record.scenario} {record.mode}: {verdict.outcome} =="]
    if verdict.reason:
        lines.append(f"   reason: {verdict.reason}")
    lines += _figure_lines(record.loadgen, record.loadgen_bounds)
    if record.summary is not None:
        lines += _latency_lines(record.summary, record.loadgen_latencies, record.decomposition)
        lines += _part_lines(record.decomposition)
        lines += [*_worker_lines(record.summary), *_acceptance_lines(record.summary)]
        lines += _loss_lines(record.summary)
    lines += _check_lines(verdict, verbose=bool(record.config.get("verbose")))
    lines += [f"   no submission run: {text}" for text in verdict.deviations]
    return "\n".join([*lines, f"   results: {printable(record.directory, MAX_PATH_LEN)}"])


def _figure_lines(figures: dict[str, object], bounds: dict[str, Bound]) -> Iterator[str]:
    """Format LoadGen's figures, each with its bound."""
    for key, value in figures.items():
        bound = f"{bounds[key].name} {bounds[key].value:,.12g}" if key in bounds else ""
        cell = f"{value:,}" if isinstance(value, int | float) else str(value)
        yield f"   LoadGen {key:<48} {cell:>14}  {bound}".rstrip()


def _latency_lines(
    summary: Summary, loadgens: dict[str, LoadGenSpread], found: RunDecomposition | None
) -> Iterator[str]:
    """Format our figures, each with LoadGen's below it."""
    names = [f"p{q:g}" for q in PERCENTILES]
    yield f"   {'ms':<18}" + "".join(f"{name:>12}" for name in ("mean", *names, "max"))
    for name, labels in _QUANTITIES.items():
        ours: Spread = getattr(summary, name)
        if ours.count:
            yield _latency_line(labels.ours, ours)
        if name in loadgens:
            yield _latency_line(labels.loadgens, loadgens[name])
        if name == "issue_lateness_ns" and found is not None and found.lateness_ns is not None:
            yield _latency_line("late by schedule", found.lateness_ns)


def _latency_line(label: str, spread: Spread | LoadGenSpread) -> str:
    marks = [spread.percentiles[f"p{q:g}"] for q in PERCENTILES]
    return f"   {label:<18}" + "".join(
        f"{value / 1e6:>12,.3f}" for value in (spread.mean, *marks, spread.maximum)
    )


def _part_lines(found: RunDecomposition | None) -> Iterator[str]:
    """Format what TTFT and TPOT consist of: for each percentile a line, and its parts below."""
    for name, whole in found.quantities.items() if found else ():
        if name not in _QUANTITIES or not whole.percentiles:
            continue
        label = name.removesuffix("_ns")
        for mark in PART_PERCENTILES:
            around = whole.percentiles[mark]
            parts = [f"{part} {ns / 1e6:.3f}" for part, ns in around.parts_ns.items()]
            clock = f"(clock +-{around.clock_error_ns / 1e6:.3f})"
            # The parts add up to the mean of these requests, not to the percentile.
            mean = f"mean {around.mean_ns / 1e6:.3f} of the {around.num_requests} nearest"
            if around.num_continued:
                mean += f", {around.num_continued} lost a worker"
            yield f"   {label} {mark} {around.value_ns / 1e6:.3f} ms, {mean} {clock}:"
            for first in range(0, len(parts), PARTS_PER_LINE):
                yield f"      {', '.join(parts[first : first + PARTS_PER_LINE])}"
        if whole.num_unknown:
            yield f"   {label}: {whole.num_unknown} requests left out, a time of theirs is not known"
    if found and found.num_contradicting:
        yield (
            f"   {found.num_contradicting} requests: the times of their workers contradict the coordinator's "
            "and count as unknown"
        )


def _worker_lines(summary: Summary) -> Iterator[str]:
    yield (
        f"   {'worker':<22}{'requests':>10}{'tokens':>12}{'ended s':>10}{'frames':>10}{'steps':>10}"
        f"{'ping ms':>9}{'streams':>9}"
    )
    for row in summary.workers:
        steps = "-" if row.engine_steps is None else row.engine_steps
        yield (
            f"   {row.address:<22}{row.requests:>10}{row.tokens:>12}{row.ended_ns / 1e9:>10.3f}"
            f"{row.frames:>10}{steps:>10}{row.round_trip_ns / 1e6:>9.3f}{row.streams:>9}"
        )


def _acceptance_lines(summary: Summary) -> Iterator[str]:
    if summary.acceptance_length is not None:
        yield f"   speculative decoding: {summary.acceptance_length:.3f} tokens per request and step"


def _loss_lines(summary: Summary) -> Iterator[str]:
    for loss in summary.losses[:MAX_LOSS_LINES]:
        # The same width: the worker of a move went on.
        verb = "move" if loss["is_move"] else "lost"
        yield (
            "   {verb} {address:<17}{requests:>10} requests with {kept_tokens} tokens, "
            "{resent_tokens} prefilled again: {reason}".format(verb=verb, **loss)
        )
    if (more := len(summary.losses) - MAX_LOSS_LINES) > 0:
        yield f"   and {more} more, see run.json"


def _check_lines(verdict: Verdict, *, verbose: bool) -> Iterator[str]:
    """Format the checks; those that pass without a warning are counted in one line unless `verbose`."""
    passed = [check for check in verdict.checks if check.passed and not check.warning]
    shown = [check for check in verdict.checks if verbose or check not in passed]
    width = max((len(check.name) for check in shown), default=0)
    for check in shown:
        yield f"   {check.mark} {check.name:<{width}} {check.seen}"
    if passed and not verbose:
        yield f"   ok   {len(passed)} of {len(verdict.checks)} checks passed (--verbose lists them)"
