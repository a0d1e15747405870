"""Directories of runs with the entries of run.json that a comparison reads."""

import json
from pathlib import Path
from typing import Any


def server_record(run_id: str, minute: int, tpot_ms: float, **changes: object) -> dict[str, Any]:
    """Return a record of a Server run that began at a minute of the same hour."""
    spread = {
        "mean": tpot_ms * 1e6,
        "percentiles": {f"p{mark}": tpot_ms * 1e6 for mark in ("50", "90", "99", "99.9")},
    }
    record: dict[str, Any] = {
        "run_id": run_id,
        "scenario": "server",
        "mode": "performance",
        "verdict": {"outcome": "VALID"},
        "started_utc": f"2026-11-30T01:{minute:02}:00+00:00",
        "test_cpu_s": 13.0,
        "config": {"target_qps": 21.0, "output_dir": run_id},
        "versions": {"tokenfleet": "1"},
        "loadgen": {"result_completed_tokens_per_second": 5000.0, "result_completed_samples_per_sec": 20.5},
        "loadgen_latencies": {"ttft_ns": spread, "tpot_ns": spread, "latency_ns": spread},
        "summary": {"answer_tokens": {"count": 1000, "mean": 1000.0}, "workers": []},
    }
    return record | changes


def write_run(directory: Path, record: object) -> Path:
    """Write run.json into a new directory."""
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return directory


def write_repeats(directory: Path, tpots_ms: list[float], first_minute: int, **changes: object) -> Path:
    """Write runs that begin every second minute, as the output of `tokenfleet run` in one directory each."""
    for k, tpot_ms in enumerate(tpots_ms):
        name = f"{directory.name}{k}"
        record = server_record(name, first_minute + 2 * k, tpot_ms, **changes)
        write_run(directory / name / "server" / "performance", record)
    return directory
