"""What a search takes from a run: its rate, another reason to be INVALID, or nothing."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tokenfleet.find_qps.search_results import DisturbedRunError, FinishedRun, RefusedRunError, read_remarks

TTFT = "result_first_token_99.00_percentile_latency_ns"
LOSS = {"address": "node2:50051", "reason": "silent for 10 s"}


def run(outcome: str, ttft_ms: int = 100, losses: tuple[dict[str, str], ...] = ()) -> FinishedRun:
    """Make a run with a TTFT limit of 3000 ms, of which LoadGen reported the p99."""
    check = {"name": "loadgen_result", "passed": outcome == "VALID", "seen": "INVALID (Min duration)"}
    record: dict[str, Any] = {
        "verdict": {"outcome": outcome, "checks": [check]},
        "loadgen": {TTFT: ttft_ms * 1_000_000},
        "loadgen_bounds": {TTFT: {"name": "limit", "value": 3_000_000_000}},
        "summary": {"losses": list(losses)},
    }
    return FinishedRun(record, pa.table({}))


def test_an_invalid_run_within_its_limits_says_nothing_of_the_rate() -> None:
    """INVALID for its duration is refused; one over a limit by ours or LoadGen's times tells of the rate."""
    with pytest.raises(RefusedRunError, match="loadgen_result: INVALID"):
        run("INVALID").check_latencies(0.05)
    run("INVALID").check_latencies(0.95)
    run("INVALID", ttft_ms=3001).check_latencies(0.05)


def test_a_run_that_lost_a_worker_says_nothing_of_the_rate() -> None:
    """A complete and an aborted run are disturbed; a VALID run is VALID on the workers that are left."""
    for outcome in ("INVALID", "FAILED"):
        with pytest.raises(DisturbedRunError, match="lost node2:50051: silent for 10 s"):
            run(outcome, losses=(LOSS,)).check(["loadgen_result"])
        run(outcome).check(["loadgen_result"])
    run("VALID", losses=(LOSS,)).check([])


def test_the_notes_of_a_result_are_the_warnings_of_its_run(tmp_path: Path) -> None:
    """A rate that was found with a worker lost, or with prefix caching, is told with that."""
    passed = {"name": "tokens", "passed": True, "seen": "equal", "warning": False}
    lost = {"name": "continuation", "passed": True, "seen": "1 workers lost", "warning": True}
    verdict = {"outcome": "VALID", "checks": [passed, lost], "deviations": ["prefix caching is on", "x"]}
    (tmp_path / "run.json").write_text(json.dumps({"run_id": "r", "verdict": verdict}))
    assert [
        "continuation: 1 workers lost",
        "no submission run for 2 reasons, first: prefix caching is on",
    ] == read_remarks(tmp_path)
