"""Placement of vLLM's ranks: tensor parallel size, CPU cores of each rank, and accelerator memory checks."""

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.flags import FlagError
from worker.engines.model.checkpoint import ModelLimits
from worker.engines.model.gpu_fit import (
    MemoryShare,
    check_gpu_memory,
    default_tensor_parallel_size,
    warn_of_idle,
)
from worker.engines.model.interface_check import EngineUnavailable

if TYPE_CHECKING:
    from vllm.config import ParallelConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

logger = logging.getLogger(__name__)


def check_accelerators() -> None:
    """Check that the devices that this build of vLLM needs are visible.

    Raises:
        EngineUnavailable: vLLM is built for accelerators and none is visible.
    """
    from vllm.platforms import current_platform

    # Without a driver a GPU build has no platform; with a driver and no device it counts 0 devices.
    if current_platform.is_unspecified() or not (
        current_platform.is_cpu() or current_platform.device_count()
    ):
        raise EngineUnavailable(
            "vllm",
            "this vLLM is built for accelerators, but none is visible: see nvidia-smi, "
            "CUDA_VISIBLE_DEVICES, a container's --gpus",
        )


def choose_tensor_parallel_size(parsed: argparse.Namespace, limits: ModelLimits) -> int:
    """Return the tensor parallel size given by the flags, or the default on this machine."""
    from vllm.platforms import current_platform

    given: int | None = parsed.tensor_parallel_size
    if current_platform.is_cpu():
        return given or 1
    if given is not None:
        return given
    num_copies = parsed.pipeline_parallel_size * parsed.data_parallel_size
    num_accelerators = current_platform.device_count() // num_copies
    size = default_tensor_parallel_size(limits, num_accelerators)
    logger.info("--tensor-parallel-size: %d, of %d accelerators", size, num_accelerators)
    return size


def num_local_ranks(parsed: argparse.Namespace) -> int:
    """Return the number of ranks of one engine on this node."""
    num_ranks: int = parsed.tensor_parallel_size * parsed.pipeline_parallel_size
    nnodes: int = parsed.nnodes
    return num_ranks // nnodes


def idle_accelerators(args: "AsyncEngineArgs", parallel: "ParallelConfig") -> tuple[str, ...]:
    """Return a warning if accelerators that are visible have no rank of this engine.

    There is none for devices that --device-ids names, and none where the engine's other front ends may use
    the others.
    """
    from vllm.platforms import current_platform

    has_others = (
        parallel.local_engines_only and parallel.data_parallel_size_local < parallel.data_parallel_size
    )
    if current_platform.is_cpu() or has_others or getattr(args, "device_ids", None):
        return ()
    num_ranks = parallel.tensor_parallel_size * parallel.pipeline_parallel_size // args.nnodes
    return warn_of_idle(num_ranks * parallel.data_parallel_size_local, current_platform.device_count())


def check_ranks_per_node(parsed: argparse.Namespace) -> None:
    """Check that an engine over several nodes has one rank for each visible accelerator.

    vLLM takes this number for that of the ranks on a node, and otherwise fails when the model is loaded.
    Source: vllm 0.25.1 and 0.32.0, shm_broadcast.py, create_from_process_group_single_reader.

    Raises:
        FlagError: The numbers differ.
    """
    from vllm.platforms import current_platform

    if parsed.nnodes == 1 or getattr(parsed, "device_ids", None):
        return
    num_ranks, num_devices = num_local_ranks(parsed), current_platform.device_count()
    if num_ranks == num_devices:
        return
    reason = f"{num_ranks} ranks on each node need as many visible accelerators, {num_devices} are visible"
    if current_platform.is_cpu():
        reason = f"vLLM's CPU build runs one rank on each node, not {num_ranks}"
    raise FlagError("--nnodes", reason)


def bind_cpu_ranks(num_ranks: int) -> None:
    """Assign cores to each rank on a CPU if there are more ranks than NUMA nodes; does nothing on a GPU.

    vLLM's default gives each rank a NUMA node, and fails if there are too few.
    """
    from vllm.platforms import current_platform

    num_numa_nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))
    if current_platform.is_cpu() and num_ranks > max(num_numa_nodes, 1):
        binding = omp_threads_bind(num_ranks, sorted(os.sched_getaffinity(0)))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", binding)


def check_memory(parsed: argparse.Namespace, weights: Path | None) -> None:
    """Check that the accelerators have enough memory.

    Raises:
        ValueError: Names the accelerator, the memory requested and the memory available.
    """
    num_local = num_local_ranks(parsed) * parsed.data_parallel_size
    # With these options the weights are smaller in memory than in the files.
    is_smaller = parsed.quantization or parsed.cpu_offload_gb or str(parsed.load_format).lower() == "dummy"
    share = MemoryShare("--gpu-memory-utilization", parsed.gpu_memory_utilization)
    check_gpu_memory(share, num_local, None if is_smaller else weights, parsed.nnodes)


def omp_threads_bind(num_ranks: int, cpus: list[int]) -> str:
    """Divide CPUs among ranks in the format of VLLM_CPU_OMP_THREADS_BIND: "0,1|2,3" for 4 CPUs and 2 ranks.

    Raises:
        FlagError: There are fewer CPUs than ranks.
    """
    if num_ranks > len(cpus):
        reason = f"{num_ranks} ranks need {num_ranks} CPUs, {len(cpus)} are available"
        raise FlagError("--tensor-parallel-size", reason)
    parts = np.array_split(np.array(cpus), num_ranks)
    return "|".join(",".join(str(cpu) for cpu in part) for part in parts)
