"""Files of a run with figures that can be derived by hand, for tests of the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MS = 1_000_000
SECOND = 1000 * MS
NULLABLE = (
    *("scheduled_ns", "received_ns", "admitted_ns", "first_token_ns", "first_frame_ns"),
    *("last_token_ns", "last_frame_ns", "clock_error_ns"),
)


def request_rows(num: int, num_workers: int = 2) -> dict[str, Any]:
    """Make columns of requests.parquet.

    Request i is issued at i * 100 ms and goes to worker i mod num_workers. It is sent 1 ms after its issue,
    received after 2, admitted after 5, has its first token after 45, its frame after 46, arrives after
    48 and is reported after 49 ms. It has 10 + i mod 5 tokens, 10 ms apart.
    """
    index = np.arange(num)
    issued = index * 100 * MS
    tokens = 10 + index % 5
    last = issued + 45 * MS + (tokens - 1) * 10 * MS
    columns: dict[str, Any] = {
        "query": index,
        "sample": (index % 7).astype(np.int32),
        "worker": (index % num_workers).astype(np.int32),
        "stream": np.zeros(num, np.int32),
        "prompt_tokens": (20 + index % 3).astype(np.int32),
        "answer_tokens": tokens.astype(np.int32),
        "finish_reason": pa.array(["stop"] * num).dictionary_encode(),
        "losses": np.zeros(num, np.int32),
        "continued": np.zeros(num, np.bool_),
        "scheduled_ns": pa.array([None] * num, pa.int64()),
    }
    after_ms = {"issued": 0, "sent": 1, "received": 2, "admitted": 5, "first_token": 45, "first_frame": 46}
    columns |= {f"{name}_ns": issued + ms * MS for name, ms in after_ms.items()}
    columns |= {"first_arrival_ns": issued + 48 * MS, "first_reported_ns": issued + 49 * MS}
    columns |= {"last_token_ns": last, "last_frame_ns": last + MS, "done_arrival_ns": last + 3 * MS}
    return columns | {"done_reported_ns": last + 4 * MS, "clock_error_ns": np.full(num, MS // 10)}


def write_requests(run_dir: Path, columns: dict[str, Any]) -> None:
    """Write requests.parquet."""
    write_table(run_dir / "requests.parquet", columns)


def write_table(path: Path, columns: dict[str, Any], run_id: str = "server-performance-1") -> None:
    """Write a parquet file as a run does."""
    facts = {"format": 1, "scenario": "server", "mode": "performance", "run_id": run_id}
    table = pa.table(columns).replace_schema_metadata({b"tokenfleet": json.dumps(facts).encode()})
    pq.write_table(table, path)


def timeline_rows(num_s: int, num_workers: int = 2, *, gpus: bool = True) -> dict[str, Any]:
    """Make columns of timeline.parquet: in second s worker w has s + w running, (s mod 3) waiting requests.

    The coordinator has received 100 * s tokens; worker w uses (s + 10 * w) % of its cache and 300 + w W.
    """
    rows = [(s, w) for s in range(num_s) for w in range(-1, num_workers)]
    second, worker = (np.array(column) for column in zip(*rows, strict=True))
    own = worker >= 0
    unknown = pa.array([None] * len(rows), pa.float64())

    def of_gpus(values: Any) -> Any:
        return pa.array(np.where(own, values, 0), mask=~own) if gpus else unknown

    return {
        "time_ns": second * SECOND,
        "worker": worker.astype(np.int32),
        "state": ["ready"] * len(rows),
        "outstanding": (second + 1).astype(np.int32),
        "running": (second + worker).astype(np.int32),
        "waiting": (second % 3).astype(np.int32),
        "kv_use": pa.array(np.where(own, (second + 10 * worker) / 100, 0), mask=~own),
        "tokens": np.where(own, 50 * second, 100 * second),
        "frames": 10 * second,
        "gpu_power_w": of_gpus(300.0 + worker),
        "gpu_clock_mhz": of_gpus(1700 + worker),
        "gpu_memory_bytes": of_gpus(2**30 * (10 + worker)),
        "gpu_temperature_c": of_gpus(60 + worker),
        "cpu_s": second * 0.1,
    }


def write_timeline(run_dir: Path, columns: dict[str, Any]) -> None:
    """Write timeline.parquet."""
    write_table(run_dir / "timeline.parquet", columns)


def spread(values: Any) -> dict[str, Any]:
    """Describe values as run.json does."""
    ordered = np.sort(np.asarray(values))
    marks = {f"p{q:g}": int(ordered[int(len(ordered) * q / 100)]) for q in (50, 90, 95, 99, 99.9)}
    ends = {"minimum": int(ordered[0]), "maximum": int(ordered[-1])}
    return {"count": len(ordered), "mean": float(ordered.mean()), "percentiles": marks, **ends}


TTFT_PARTS_MS = {"coordinator queue": 1, "network out": 1, "engine queue": 3, "prefill": 40} | {
    "frame hold": 1,
    "network back": 2,
    "report": 1,
}
"""Parts of every request's TTFT by request_rows: 49 ms in all."""


def decomposition() -> dict[str, Any]:
    """Make the decomposition of request_rows: of TTFT, and of TPOT as 10 ms in the engine."""

    def taken_apart(parts_ms: dict[str, int]) -> dict[str, Any]:
        parts_ns = {name: float(ms * MS) for name, ms in parts_ms.items()}
        whole_ns = sum(parts_ms.values()) * MS
        around = {
            "value_ns": whole_ns,
            "mean_ns": float(whole_ns),
            "num_requests": 1,
            "clock_error_ns": MS / 10,
        }
        marks = {mark: around | {"parts_ns": parts_ns} for mark in ("p50", "p90", "p99", "p99.9")}
        return {"count": 100, "num_unknown": 2, "mean_parts_ns": parts_ns, "percentiles": marks}

    quantities = {"ttft_ns": taken_apart(TTFT_PARTS_MS), "tpot_ns": taken_apart({"engine": 10})}
    return {"begins_with": "issued_ns", "num_contradicting": 0, "quantities": quantities}


def disturbances() -> dict[str, Any]:
    """Make a loss 4 s after the first query, its continuation 10 ms later, and two pauses."""
    loss = {"address": "node0:50051", "at_ns": 104 * SECOND, "reason": "stream ended: UNAVAILABLE"}
    loss |= {"requests": 3, "kept_tokens": 12, "resent_tokens": 72}
    moved = {"sample": 5, "losses": 1, "kept_tokens": 4, "from_worker": "node0:50051"}
    moved |= {"to_worker": "node1:50051", "at_ns": 104 * SECOND + 10 * MS}
    pauses = [
        {"kind": "gc", "began_ns": 2 * SECOND, "duration_ns": 12 * MS},
        {"kind": "event loop", "began_ns": 6 * SECOND, "duration_ns": 120 * MS},
    ]
    return {"losses": [loss], "continuations": [moved], "pauses": pauses}


def worker_row(index: int, **info: object) -> dict[str, Any]:
    """Make a worker of run.json."""
    facts = {
        "engine": "simulated",
        "engine_version": "1",
        "model": "gpt-oss-120b",
        "hostname": f"node{index}",
    }
    gpu = {"name": "NVIDIA H200", "driver_version": "580.1", "memory_bytes": 2**37, "num_devices": 8}
    return {
        "address": f"node{index}:50051",
        "requests": 50 + index,
        "ended_ns": 10 * SECOND + index,
        "service_ns": spread([90 * MS, 91 * MS, 92 * MS]),
        "tokens": 600 + index,
        "frames": 500,
        "engine_steps": 700,
        "streams": 1,
        "dropped_tokens": 0,
        "round_trip_ns": 150_000,
        "clock_offset_ns": 0,
        "info": facts | info,
        "hosts": [
            {
                "hostname": facts["hostname"],
                "accelerators": [gpu],
                "python_version": "3.11.7",
                "engine_hosts": [{"hostname": f"other{index}", "num_cores": 96}],
            }
        ],
    }


def run_json(num_workers: int = 2, **changes: object) -> dict[str, Any]:
    """Make the run.json of a valid Server run over 100 requests of request_rows."""
    rows = request_rows(100, num_workers)
    ttft = np.full(100, 48 * MS)
    latency = rows["done_arrival_ns"] - rows["issued_ns"]
    limits = {
        "result_completed_samples_per_sec": {"name": "target_qps", "value": 10.0},
        "result_first_token_99.00_percentile_latency_ns": {"name": "limit", "value": 3 * SECOND},
        "result_time_per_output_token_99.00_percentile_ns": {"name": "limit", "value": 80 * MS},
    }
    checks = [
        {"name": "loadgen_result", "passed": True, "seen": "VALID", "warning": False},
        {"name": "pauses", "passed": True, "seen": "1 pause of 120 ms", "warning": True},
    ]
    events = disturbances()
    return {
        "run_id": "server-performance-1",
        "scenario": "server",
        "mode": "performance",
        "directory": "/results/server/performance",
        "verdict": {
            "outcome": "VALID",
            "reason": "",
            "checks": checks,
            "deviations": ["100 samples, not 6396"],
        },
        "started_utc": "2026-11-30T00:00:00+00:00",
        "ready_s": 1.5,
        "wall_s": 10.25,
        "coordinator_cpu_s": 0.75,
        "test_cpu_s": 0.5,
        "config": {"scenario": "server", "workers": ["node0:50051"], "target_qps": 10.0, "user_conf": None},
        "changed_flags": ["scenario", "target_qps"],
        "generation": {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "max_new_tokens": 10240},
        "dataset": {"path": "data.parquet", "sha256": "ab" * 32, "num_samples": 7},
        "versions": {"python": "3.11.7", "tokenfleet": "0.1.0", "mlcommons_loadgen": "6.0.17"},
        "host": {"hostname": "head", "python_version": "3.11.7", "num_cores": 64, "memory_bytes": 2**39},
        "round": "v6.1",
        "spec_hash": "cd" * 32,
        "loadgen": {
            "result_validity": "VALID",
            "result_completed_tokens_per_second": 117,
            "result_completed_samples_per_sec": 9.75,
            "result_first_token_99.00_percentile_latency_ns": 48_900_000,
            "result_time_per_output_token_99.00_percentile_ns": 10_100_000,
        },
        "loadgen_bounds": limits,
        "loadgen_latencies": {
            "ttft_ns": spread(ttft + MS),
            "tpot_ns": spread(np.full(100, 10 * MS + 7)),
            "latency_ns": spread(latency + MS),
        },
        "files_sha256": {"mlperf_log_summary.txt": "ef" * 32},
        "summary": {
            "ttft_ns": spread(ttft),
            "tpot_ns": spread(np.full(100, 10 * MS)),
            "latency_ns": spread(latency),
            "queued_ns": spread(np.full(100, MS)),
            "issue_lateness_ns": spread(np.full(100, MS // 2)),
            "report_delay_ns": spread(np.full(200, 4 * MS)),
            "acceptance_length": 2.71828,
            "answer_tokens": spread(rows["answer_tokens"]),
            "workers": [worker_row(index) for index in range(num_workers)],
            "losses": events["losses"],
            "continuations": events["continuations"],
            "overdue": [],
        },
        "origin_ns": 100 * SECOND,
        "pauses": events["pauses"],
        "decomposition": decomposition(),
    } | changes


def write_run(run_dir: Path, record: dict[str, Any] | None = None) -> Path:
    """Write all files of a run."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "run.json").write_text(json.dumps(record or run_json(), indent=1))
    write_requests(run_dir, request_rows(100))
    write_timeline(run_dir, timeline_rows(11))
    return run_dir
