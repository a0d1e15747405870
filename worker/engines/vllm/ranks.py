"""Where vLLM's ranks go: how many a replica has, on which accelerators or cores."""

import argparse
import logging
import os
import time
from pathlib import Path

import numpy as np

from worker.engines.vllm.checkpoint import ModelLimits
from worker.machine.gpus import Memory, visible_memory

logger = logging.getLogger(__name__)

MAX_TENSOR_PARALLEL_SIZE = 8
GIB = 1 << 30
# What a killed process held comes back within seconds.
FREED_TIMEOUT_S = 10.0
FREED_POLL_S = 0.5


def check_accelerators() -> None:
    """Check that there is what this build of vLLM computes on.

    Raises:
        ValueError: It is a build for accelerators, and none is visible.
    """
    from vllm.platforms import current_platform

    # A build for GPUs that finds no driver names no platform, and then counts no devices.
    if current_platform.is_unspecified() or not (
        current_platform.is_cpu() or current_platform.device_count()
    ):
        raise ValueError(
            "--engine: this vllm is built for accelerators, and none is visible: see nvidia-smi, "
            "CUDA_VISIBLE_DEVICES, a container's --gpus"
        )


def place_ranks(parsed: argparse.Namespace, limits: ModelLimits) -> None:
    """Choose the tensor parallel size where none was given; on a CPU give each rank its cores."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        parsed.tensor_parallel_size = parsed.tensor_parallel_size or 1
        num_ranks = parsed.tensor_parallel_size * parsed.pipeline_parallel_size
        num_numa_nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))
        # Left alone, vLLM gives each rank a NUMA node and stops where there are not enough.
        if num_ranks > max(num_numa_nodes, 1):
            binding = omp_threads_bind(num_ranks, sorted(os.sched_getaffinity(0)))
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", binding)
    elif parsed.tensor_parallel_size is None:
        num_copies = parsed.pipeline_parallel_size * parsed.data_parallel_size
        num_accelerators = current_platform.device_count() // num_copies
        parsed.tensor_parallel_size = default_tensor_parallel_size(limits, num_accelerators)
        logger.info(
            "--tensor-parallel-size: %d, of %d accelerators", parsed.tensor_parallel_size, num_accelerators
        )


def check_memory(parsed: argparse.Namespace, weights: Path | None) -> None:
    """Check that this machine's accelerators have the memory that is asked of them; waits for it to be freed.

    Raises:
        ValueError: Names the accelerator, what is asked of it and what it has.
    """
    num_ranks = parsed.tensor_parallel_size * parsed.pipeline_parallel_size * parsed.data_parallel_size
    # What makes the weights in memory fewer than those in the files.
    lighter = parsed.quantization or parsed.cpu_offload_gb or parsed.load_format == "dummy"
    files = [] if weights is None or lighter else weights.glob("*.safetensors")
    weight_bytes = sum(path.stat().st_size for path in files) // num_ranks
    utilization = parsed.gpu_memory_utilization
    deadline_s = time.monotonic() + FREED_TIMEOUT_S
    while taken := _taken(devices := visible_memory()[:num_ranks], utilization):
        if time.monotonic() > deadline_s:
            raise ValueError(taken)
        time.sleep(FREED_POLL_S)
    for device in devices:
        if device.total_bytes * utilization < weight_bytes:
            part = f"its part of the weights is {weight_bytes / GIB:.1f} GiB"
            raise ValueError(f"{_asked_of(device, utilization)}, {part}")


def _taken(devices: list[Memory], utilization: float) -> str:
    """Say which accelerator has less free than is asked, as vLLM's request_memory would; empty: none."""
    for device in devices:
        if device.free_bytes < int(device.total_bytes * utilization):
            return f"{_asked_of(device, utilization)}, it has {device.free_bytes / GIB:.1f} GiB free"
    return ""


def _asked_of(device: Memory, utilization: float) -> str:
    gib = device.total_bytes * utilization / GIB
    return f"--gpu-memory-utilization: {utilization:g} of accelerator {device.name} are {gib:.1f} GiB"


def default_tensor_parallel_size(limits: ModelLimits, num_accelerators: int) -> int:
    """Return the largest size up to 8 that fits and divides both kinds of attention heads."""
    heads = (limits.num_attention_heads, limits.num_key_value_heads)
    sizes = range(min(num_accelerators, MAX_TENSOR_PARALLEL_SIZE), 1, -1)
    return next((size for size in sizes if all(num % size == 0 for num in heads)), 1)


def omp_threads_bind(num_ranks: int, cpus: list[int]) -> str:
    """Split CPUs among ranks as VLLM_CPU_OMP_THREADS_BIND writes it: 4 CPUs and 2 ranks are "0,1|2,3".

    Raises:
        ValueError: Fewer CPUs than ranks.
    """
    if num_ranks > len(cpus):
        raise ValueError(f"--tensor-parallel-size: {num_ranks} ranks on {len(cpus)} CPUs, one each at least")
    parts = np.array_split(np.array(cpus), num_ranks)
    return "|".join(",".join(str(cpu) for cpu in part) for part in parts)
