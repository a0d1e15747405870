"""The table at the end of a run: what stands beside what."""

import dataclasses
from typing import Any

import numpy as np

from coordinator.recording.final_table import format_record
from coordinator.recording.run_record import RunRecord, Summary
from coordinator.scheduling.failover import Loss
from coordinator.transport.worker_host import WorkerHost
from sut.results.checks import VerdictCheck
from sut.results.loadgen_figures import Bound, LoadGenSpread
from sut.results.timing.decomposition import (
    TTFT_MARKS,
    Decomposition,
    PartsOfPercentile,
    RunDecomposition,
)
from sut.results.timing.spread import Spread
from sut.results.verdict import Outcome, Verdict

MS = 1_000_000
CHECKS = (
    VerdictCheck("loadgen_result", False, "INVALID (TTFT constrain not met)"),
    VerdictCheck("completion", True, "2 issued, 2 complete"),
    VerdictCheck("pauses", True, "worst 200 ms", warning=True),
    VerdictCheck("tokens", True, "6"),
)
KEY = "result_first_token_99.00_percentile_latency_ns"


def record_of(*, verbose: bool = False, **changed: Any) -> RunRecord:
    """Make the record of an INVALID Server run with two answers."""
    spread = Spread.of(np.array([MS, 2 * MS]))
    names = ("ttft_ns", "tpot_ns", "latency_ns", "queued_ns", "issue_lateness_ns", "report_delay_ns")
    spreads: dict[str, Any] = dict.fromkeys(names, spread)
    lists: dict[str, Any] = {name: [] for name in ("workers", "losses", "continuations", "overdue")}
    summary = Summary(**spreads, answer_tokens=spread, acceptance_length=2.71828, **lists)
    marks = {"p50": 5.0 * MS, "p90": 6.0 * MS, "p95": 7.0 * MS, "p99": 8.0 * MS, "p99.9": 9.0 * MS}
    fields: dict[str, Any] = {
        "run_id": "r",
        "scenario": "server",
        "mode": "performance",
        "directory": "/results/server/performance",
        "verdict": Verdict(Outcome.INVALID, "loadgen_result: INVALID", CHECKS, ("a deviation",)),
        "started_utc": "2026-01-01T00:00:00+00:00",
        "ready_s": 1.0,
        "wall_s": 2.0,
        "coordinator_cpu_s": 1.0,
        "test_cpu_s": 0.5,
        "config": {"verbose": verbose},
        "changed_flags": [],
        "generation": {},
        "dataset": {},
        "versions": {},
        "host": WorkerHost(),
        "round": None,
        "spec_hash": "",
        "loadgen": {"result_validity": "INVALID", KEY: 8 * MS},
        "loadgen_bounds": {KEY: Bound("limit", 3 * MS)},
        "loadgen_latencies": {"ttft_ns": LoadGenSpread(5.5 * MS, 5.0 * MS, marks, 10.0 * MS)},
        "files_sha256": {},
        "over_latency": None,
        "summary": summary,
        "origin_ns": 0,
        "pauses": [],
    }
    return RunRecord(**(fields | changed))


def rows_of(record: RunRecord) -> list[list[str]]:
    """Format a record, and split its lines into words."""
    return [line.split() for line in format_record(record).splitlines()]


def test_loadgens_ttft_stands_below_ours_with_the_lateness() -> None:
    """The rows follow one another: ours from issue, LoadGen's, and the lateness of the issue thread."""
    rows = rows_of(record_of())
    first = next(i for i, row in enumerate(rows) if row[:1] == ["ttft"])
    ours = ["1.500", "2.000", "2.000", "2.000", "2.000", "2.000", "2.000"]
    assert ["ttft", "from", "issue", *ours] == rows[first]
    loadgens = ["5.500", "5.000", "6.000", "7.000", "8.000", "9.000", "10.000"]
    assert ["ttft", "by", "LoadGen", *loadgens] == rows[first + 1]
    assert ["issue", "lateness", *ours] == rows[first + 2]


def test_a_figure_stands_with_its_bound() -> None:
    """The p99 of TTFT is followed by the limit that it exceeds; a figure without a bound by nothing."""
    rows = rows_of(record_of())
    assert ["LoadGen", KEY, "8,000,000", "limit", "3,000,000"] in rows
    assert ["LoadGen", "result_validity", "INVALID"] in rows


def test_passing_checks_are_one_line() -> None:
    """A failed check and a warning have their lines; the two others are counted, and listed if verbose."""
    text = format_record(record_of())
    assert "FAIL loadgen_result INVALID (TTFT" in text
    assert "warn pauses         worst 200 ms" in text
    assert "2 of 4 checks passed (--verbose lists them)" in text
    assert "2 issued" not in text
    text = format_record(record_of(verbose=True))
    assert "ok   completion     2 issued, 2 complete" in text
    assert "checks passed" not in text


def test_checks_with_long_names_are_aligned() -> None:
    """What each check has seen begins in one column, behind the longest name of those that are shown."""
    checks = (VerdictCheck("tokens", False, "SEEN"), VerdictCheck("degenerate_answers", False, "SEEN"))
    lines = format_record(record_of(verdict=Verdict(Outcome.INVALID, "", checks))).splitlines()
    assert ["   FAIL tokens             SEEN", "   FAIL degenerate_answers SEEN"] == [
        line for line in lines if "SEEN" in line
    ]


def test_the_acceptance_length_is_a_line() -> None:
    """2.71828 tokens per request and step are shown with three digits behind the point."""
    assert (
        "   speculative decoding: 2.718 tokens per request and step"
        in format_record(record_of()).splitlines()
    )


def test_the_last_line_is_the_directory() -> None:
    """Where the results are comes last, without control characters, whether or not there are figures."""
    assert "   results: /results/server/performance" == format_record(record_of()).splitlines()[-1]
    bare = record_of(directory="/a\x1b[2Jb", summary=None, loadgen={}, loadgen_bounds={})
    assert "   results: /a?[2Jb" == format_record(bare).splitlines()[-1]


def test_the_parts_of_a_percentile_stand_below_the_mean_that_they_add_up_to() -> None:
    """A p99 of 9 ms, of three requests with a mean of 8 ms: the parts 6 and 2 add up to the mean."""
    around = PartsOfPercentile(9 * MS, 8.0 * MS, 3, 0, 0.5 * MS, {"prefill": 6.0 * MS, "report": 2.0 * MS})
    found = Decomposition(2, 0, {}, {"p50": around, "p99": around})
    shown = format_record(
        record_of(decomposition=RunDecomposition("issued_ns", None, 0, None, {"ttft_ns": found}))
    )
    lines = shown.splitlines()
    above = lines.index("   ttft p99 9.000 ms, mean 8.000 of the 3 nearest (clock +-0.500):")
    assert "      prefill 6.000, report 2.000" == lines[above + 1]


def test_requests_that_lost_a_worker_are_named_beside_the_parts() -> None:
    """Two of the three requests around the p99 have the time at it in their way to the next one."""
    around = PartsOfPercentile(9 * MS, 8.0 * MS, 3, 2, 0.5 * MS, {"network out": 8.0 * MS})
    found = Decomposition(2, 0, {}, {"p50": around, "p99": around})
    shown = format_record(
        record_of(decomposition=RunDecomposition("issued_ns", None, 0, None, {"ttft_ns": found}))
    )
    assert (
        "   ttft p99 9.000 ms, mean 8.000 of the 3 nearest, 2 lost a worker (clock +-0.500):"
        in shown.splitlines()
    )


def test_parts_of_hours_fit_110_columns() -> None:
    """All eight parts of a TTFT of eight times an hour."""
    parts = dict.fromkeys(TTFT_MARKS.values(), 3_600_000.0 * MS)
    around = PartsOfPercentile(28_800_000 * MS, 28_800_000.0 * MS, 5_412, 5_412, 0.5 * MS, parts)
    found = Decomposition(2, 0, {}, {"p50": around, "p99": around})
    shown = format_record(
        record_of(decomposition=RunDecomposition("issued_ns", None, 0, None, {"ttft_ns": found}))
    )
    lines = [line for line in shown.splitlines() if "3600000.000" in line or "28800000.000" in line]
    assert 2 * 3 == len(lines)
    assert max(map(len, lines)) <= 110


def test_a_query_that_was_taken_from_a_live_worker_is_no_loss_of_it() -> None:
    """Each loss and each move is a line; only that of a loss says that the worker was lost."""
    lost = Loss("a:1", 0, "silent for 10 s", 3, 4, 5)
    moved = Loss("b:2", 0, "overdue", 1, 2, 3, is_move=True)
    record = record_of()
    assert record.summary is not None
    losses = [lost._asdict(), moved._asdict()]
    words = rows_of(dataclasses.replace(record, summary=dataclasses.replace(record.summary, losses=losses)))
    found = [row[:3] for row in words if row[1:2] in (["a:1"], ["b:2"])]
    assert [["lost", "a:1", "3"], ["move", "b:2", "1"]] == found


def test_loadgens_own_lateness_stands_below_that_of_the_thread() -> None:
    """Known after the run if the schedule is: the thread may have been in time when LoadGen was not."""
    marks = {"p50": MS, "p90": 2 * MS, "p95": 3 * MS, "p99": 4 * MS, "p99.9": 5 * MS}
    found = RunDecomposition("scheduled_ns", None, 0, Spread(4, 1.5 * MS, 0, marks, 6 * MS), {})
    rows = rows_of(record_of(decomposition=found))
    (row,) = [number for number, row in enumerate(rows) if row[:3] == ["late", "by", "schedule"]]
    assert ["1.500", "1.000", "2.000", "3.000", "4.000", "5.000", "6.000"] == rows[row][3:]
    assert ["issue", "lateness"] == rows[row - 1][:2]
