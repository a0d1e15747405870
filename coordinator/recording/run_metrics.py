"""The metrics that a coordinator exports."""

from common.metrics import Metric, MetricKind

COUNTER, GAUGE, HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM
PERCENTILES = (50, 90, 99, 99.9)
TTFT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0, 30.0, 100.0)
"""The limits of Interactive (2 s) and Server (3 s) are among them."""
TPOT_BOUNDS_S = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0)
"""The limits of Interactive (15 ms) and Server (80 ms) are among them."""


def _run(name: str, kind: MetricKind, text: str, *labels: str, bounds: tuple[float, ...] = ()) -> Metric:
    return Metric(f"tokenfleet_coordinator_{name}", kind, text, labels, bounds)


INFO = _run("info", GAUGE, "1; the labels name the run.", "run_id", "scenario", "mode")
PHASE = _run("phase", GAUGE, "1 for the phase that the coordinator is in.", "phase")
ISSUED = _run("issued_requests", COUNTER, "Requests that LoadGen has issued.")
COMPLETED = _run("completed_requests", COUNTER, "Requests reported complete to LoadGen.")
EXPECTED = _run("expected_requests", GAUGE, "Requests of the whole run, once LoadGen has logged the number.")
IN_FLIGHT = _run("in_flight_requests", GAUGE, "Requests sent to a worker and not complete.")
BACKLOG = _run("backlog_requests", GAUGE, "Requests issued and not sent to any worker.")
TOKENS = _run("tokens", COUNTER, "Tokens received, of complete and of running answers.")
TOKENS_PER_S = _run("tokens_per_second", GAUGE, "Tokens received per second, mean of the last 10 s.")
TTFT = _run("ttft_seconds", HISTOGRAM, "Issue to first token of the complete requests.", bounds=TTFT_BOUNDS_S)
TPOT = _run(
    "tpot_seconds",
    HISTOGRAM,
    "Time per output token after the first, of the complete requests.",
    bounds=TPOT_BOUNDS_S,
)
TTFT_PERCENTILES = _run(
    "ttft_percentile_seconds",
    GAUGE,
    "Percentiles so far of the time from issue to the first token, over the complete requests.",
    "percentile",
)
TPOT_PERCENTILES = _run(
    "tpot_percentile_seconds",
    GAUGE,
    "Percentiles so far of the time per output token after the first, over the complete requests.",
    "percentile",
)
TTFT_LIMIT = _run("ttft_limit_seconds", GAUGE, "LoadGen's limit of TTFT at the 99th percentile.")
TPOT_LIMIT = _run("tpot_limit_seconds", GAUGE, "LoadGen's limit of TPOT at the 99th percentile.")
LATENESS = _run(
    "issue_lateness_seconds",
    GAUGE,
    "Largest lateness in the last 10 s of a thread that waits as LoadGen's issue thread does.",
)
LOSSES = _run("losses", COUNTER, "Losses of a worker during the run.")
CONTINUED = _run("continued_requests", COUNTER, "Times that a request continued on another worker.")
LONG_PAUSES = _run("long_pauses", COUNTER, "Pauses of the coordinator of more than 100 ms.", "cause")
WORST_PAUSE = _run("worst_pause_seconds", GAUGE, "Longest pause of the coordinator so far.", "cause")
CPU = _run("cpu_seconds", COUNTER, "CPU time of the coordinator's process, user and system.")
MEMORY = _run("resident_memory_bytes", GAUGE, "Resident memory of the coordinator's process.")
LIVE_WORKERS = _run("live_workers", GAUGE, "Workers that carry requests.")
WORKERS = _run("workers", GAUGE, "Workers of the run.")
WORKER_LIVE = _run("worker_live", GAUGE, "1 if the worker carries requests, else 0.", "worker")
WORKER_OUTSTANDING = _run("worker_outstanding_requests", GAUGE, "Requests sent and not complete.", "worker")
WORKER_TOKENS = _run("worker_tokens", COUNTER, "Tokens received from the worker.", "worker")
WORKER_FRAMES = _run("worker_frames", COUNTER, "Token frames received from the worker.", "worker")
WORKER_LOSSES = _run("worker_losses", COUNTER, "Losses of the worker during the run.", "worker")
WORKER_RUNNING = _run("worker_running_requests", GAUGE, "Requests in the engine's running batch.", "worker")
WORKER_WAITING = _run("worker_waiting_requests", GAUGE, "Requests queued in the engine.", "worker")
WORKER_KV_USE = _run(
    "worker_kv_cache_usage_ratio", GAUGE, "Share of the engine's KV cache in use, 0 to 1.", "worker"
)
WORKER_POWER = _run(
    "worker_gpu_power_watts",
    GAUGE,
    "Power of the worker's GPUs together, without those on other nodes of its engine.",
    "worker",
)

OF_WORKERS = (
    *(WORKER_LIVE, WORKER_OUTSTANDING, WORKER_TOKENS, WORKER_FRAMES, WORKER_LOSSES, WORKER_RUNNING),
    *(WORKER_WAITING, WORKER_KV_USE, WORKER_POWER),
)
RUN_METRICS = (
    *(INFO, PHASE, ISSUED, COMPLETED, EXPECTED, IN_FLIGHT, BACKLOG, TOKENS, TOKENS_PER_S, TTFT, TPOT),
    *(TTFT_PERCENTILES, TPOT_PERCENTILES, TTFT_LIMIT, TPOT_LIMIT, LATENESS, LOSSES, CONTINUED, LONG_PAUSES),
    *(WORST_PAUSE, CPU, MEMORY, LIVE_WORKERS, WORKERS, *OF_WORKERS),
)
