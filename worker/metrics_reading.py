"""Readings of a worker's metrics."""

import time

import grpc

from common.metrics import Readings, Series, resident_bytes
from protos import worker_pb2 as pb
from worker.servicer import WorkerServicer
from worker.worker_metrics import (
    COMPILED,
    CPU,
    FAILED_CALLS,
    FINISHED,
    FRAMES,
    GPU_CLOCK,
    GPU_MEMORY,
    GPU_POWER,
    GPU_TEMPERATURE,
    INFO,
    KV_USE,
    MAX_RUNNING,
    MEMORY,
    OWN,
    PROMPT_TOKENS,
    REQUESTS,
    RESTARTS,
    RUN_ACTIVE,
    RUNNING,
    RUNS,
    STATE,
    STEPS,
    TOKENS,
    WAITING,
    state_readings,
)


def read_worker(servicer: WorkerServicer, num_unauthenticated: int) -> Readings:
    """Read the metrics of a worker.

    Args:
        servicer: The worker.
        num_unauthenticated: Generate calls that were refused before they reached the servicer.

    Thread: the event loop's; takes some 50 us.
    """
    served, load, info = servicer.served, servicer.read_load(), servicer.info
    values = {
        # Of a replica the node knows it.
        RESTARTS: 0,
        RUNS: servicer.num_runs,
        RUN_ACTIVE: servicer.is_busy,
        REQUESTS: served.requests,
        FINISHED: served.finished_requests,
        PROMPT_TOKENS: served.prompt_tokens,
        TOKENS: served.tokens,
        STEPS: served.steps,
        FRAMES: served.frames,
        RUNNING: load.running,
        WAITING: load.waiting,
        MAX_RUNNING: info.max_num_seqs,
        CPU: time.process_time(),
        MEMORY: resident_bytes(),
    }
    if load.HasField("kv_use"):
        values[KV_USE] = load.kv_use
    if load.HasField("compiled"):
        values[COMPILED] = load.compiled.num
    readings = {metric.name: [Series((OWN,), float(value))] for metric, value in values.items()}
    if info.engine:
        readings[INFO.name] = [Series((OWN, info.engine, info.engine_version), 1.0)]
    readings[STATE.name] = state_readings(info.state)
    failed = {status.name: num for status, num in servicer.failed_calls.items()}
    failed[grpc.StatusCode.UNAUTHENTICATED.name] = num_unauthenticated
    readings[FAILED_CALLS.name] = [Series((OWN, status), float(num)) for status, num in failed.items()]
    return readings | _read_gpus(load)


def _read_gpus(load: pb.EngineLoad) -> Readings:
    found: dict[str, list[Series]] = {}
    for gpu in load.gpus:
        values = {
            GPU_POWER: gpu.power_w if gpu.HasField("power_w") else None,
            GPU_CLOCK: gpu.sm_clock_mhz * 1e6 if gpu.HasField("sm_clock_mhz") else None,
            GPU_MEMORY: gpu.used_memory_bytes if gpu.HasField("used_memory_bytes") else None,
            GPU_TEMPERATURE: gpu.temperature_c if gpu.HasField("temperature_c") else None,
        }
        for metric, value in values.items():
            if value is not None:
                found.setdefault(metric.name, []).append(Series((OWN, str(gpu.index)), float(value)))
    return found
