"""The metrics that a worker or a node exports.

The first label of each is `replica`, the replica's number on its node: 0 for a worker without a node.
"""

from collections.abc import Iterable

from common.metrics import Metric, MetricKind, Readings, Series
from protos import worker_pb2 as pb

COUNTER, GAUGE = MetricKind.COUNTER, MetricKind.GAUGE
_STATE_PREFIX = "WORKER_STATE_"
OWN = "0"
"""Number that a worker gives itself."""
STATES = tuple(name.removeprefix(_STATE_PREFIX) for name in pb.WorkerState.keys()[1:-1])


def _worker(name: str, kind: MetricKind, text: str, *labels: str) -> Metric:
    return Metric(f"tokenfleet_worker_{name}", kind, text, ("replica", *labels))


def _gpu(name: str, text: str) -> Metric:
    return Metric(f"tokenfleet_gpu_{name}", GAUGE, text, ("replica", "gpu"))


INFO = _worker("info", GAUGE, "1; the labels name the engine and its version.", "engine", "engine_version")
STATE = _worker("state", GAUGE, "1 for the state that the replica is in, as in GetInfo.", "state")
RESTARTS = _worker("restarts", COUNTER, "Times that a node has started the replica's process again.")
RUNS = _worker("runs", COUNTER, "Runs that this worker has accepted.")
RUN_ACTIVE = _worker("run_active", GAUGE, "1 while a run holds the worker, else 0.")
FAILED_CALLS = _worker("failed_calls", COUNTER, "Generate calls that ended with an error status.", "status")
REQUESTS = _worker("requests", COUNTER, "Requests received.")
FINISHED = _worker("finished_requests", COUNTER, "Requests whose answer is complete.")
PROMPT_TOKENS = _worker("prompt_tokens", COUNTER, "Tokens of the prompts received.")
TOKENS = _worker("tokens", COUNTER, "Tokens that the engine has produced for runs.")
STEPS = _worker("steps", COUNTER, "Engine steps that returned output.")
FRAMES = _worker("frames", COUNTER, "Token frames sent.")
RUNNING = _worker("running_requests", GAUGE, "Requests in the engine's running batch.")
WAITING = _worker("waiting_requests", GAUGE, "Requests queued in the engine.")
MAX_RUNNING = _worker("max_running_requests", GAUGE, "Requests that the engine runs at the same time.")
KV_USE = _worker("kv_cache_usage_ratio", GAUGE, "Share of the KV cache in use, 0 to 1.")
COMPILED = _worker(
    "compiled_kernels", COUNTER, "Kernels that the engine has compiled since the current run began."
)
CPU = _worker("cpu_seconds", COUNTER, "CPU time of the worker's process without the engine's processes.")
MEMORY = _worker("resident_memory_bytes", GAUGE, "Resident memory of the worker's process.")
GPU_POWER = _gpu("power_watts", "Power of the GPU, in watts.")
GPU_CLOCK = _gpu("sm_clock_hertz", "Clock of the GPU's multiprocessors, in hertz.")
GPU_MEMORY = _gpu("memory_used_bytes", "Memory of the GPU in use, by any process.")
GPU_TEMPERATURE = _gpu("temperature_celsius", "Temperature of the GPU.")

WORKER_METRICS = (
    *(INFO, STATE, RESTARTS, RUNS, RUN_ACTIVE, FAILED_CALLS, REQUESTS, FINISHED, PROMPT_TOKENS, TOKENS),
    *(STEPS, FRAMES, RUNNING, WAITING, MAX_RUNNING, KV_USE, COMPILED, CPU, MEMORY),
    *(GPU_POWER, GPU_CLOCK, GPU_MEMORY, GPU_TEMPERATURE),
)


def state_readings(state: "pb.WorkerState") -> list[Series]:
    """Return a series for each state: 1 for the current one, 0 for the others."""
    current = pb.WorkerState.Name(state).removeprefix(_STATE_PREFIX)
    return [Series((OWN, name.lower()), float(name == current)) for name in STATES]


def of_replica(index: int, readings: Readings) -> Readings:
    """Give the readings of a worker the number of a replica."""
    return {
        name: [Series((str(index), *row.labels[1:]), row.value) for row in rows]
        for name, rows in readings.items()
    }


def join(parts: Iterable[Readings]) -> Readings:
    """Put readings together."""
    joined: dict[str, list[Series]] = {}
    for readings in parts:
        for name, rows in readings.items():
            joined.setdefault(name, []).extend(rows)
    return joined
