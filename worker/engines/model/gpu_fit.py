"""Checks that a model fits the GPUs before it is loaded, and chooses over how many it is divided."""

import logging
import time
from pathlib import Path
from typing import NamedTuple

from common.flags import FlagError
from worker.engines.model.checkpoint import ModelLimits
from worker.machine.gpus import Memory, visible_memory

logger = logging.getLogger(__name__)

MAX_TENSOR_PARALLEL_SIZE = 8
GIB = 1 << 30
# The driver frees the memory of a killed process within seconds.
FREED_TIMEOUT_S = 10.0
FREED_POLL_S = 0.5


class MemoryShare(NamedTuple):
    """Part of each accelerator's memory that an engine uses."""

    flag: str
    """The engine's flag for it."""
    share: float
    """0 to 1."""


def check_gpu_memory(use: MemoryShare, num_ranks: int, weights: Path | None, nnodes: int = 1) -> None:
    """Check that the accelerators have enough memory; waits up to FREED_TIMEOUT_S for memory to be freed.

    Args:
        use: Part of the memory that the engine will use.
        num_ranks: Number of accelerators of this machine that share the weights.
        weights: Directory of the weights; None: their size in memory is not known.
        nnodes: Number of machines that share the weights.

    Raises:
        ValueError: Names the accelerator, the memory requested and the memory available.
    """
    files = [] if weights is None else weights.glob("*.safetensors")
    weight_bytes = sum(path.stat().st_size for path in files) // (num_ranks * nnodes)
    deadline_s = time.monotonic() + FREED_TIMEOUT_S
    while shortage := _shortage(devices := visible_memory()[:num_ranks], use):
        if time.monotonic() > deadline_s:
            raise shortage
        time.sleep(FREED_POLL_S)
    for device in devices:
        if device.total_bytes * use.share < weight_bytes:
            raise _memory_error(device, use, f"its part of the weights is {weight_bytes / GIB:.1f} GiB")


def warn_of_idle(num_used: int, num_visible: int) -> tuple[str, ...]:
    """Return a warning, and log it, if an engine uses fewer accelerators than are visible to its process."""
    if num_used >= num_visible:
        return ()
    warning = (
        f"the engine uses {num_used} of {num_visible} visible accelerators: more --replicas or a larger "
        "--tensor-parallel-size would use the others, CUDA_VISIBLE_DEVICES would hide them"
    )
    logger.warning("%s", warning)
    return (warning,)


def _shortage(devices: list[Memory], use: MemoryShare) -> FlagError | None:
    """Return an error for an accelerator with less free memory than the engine will use."""
    for device in devices:
        if device.free_bytes < int(device.total_bytes * use.share):
            return _memory_error(device, use, f"it has {device.free_bytes / GIB:.1f} GiB free")
    return None


def _memory_error(device: Memory, use: MemoryShare, problem: str) -> FlagError:
    gib = device.total_bytes * use.share / GIB
    return FlagError(use.flag, f"{use.share:g} of accelerator {device.name} is {gib:.1f} GiB, but {problem}")


def default_tensor_parallel_size(limits: ModelLimits, num_accelerators: int) -> int:
    """Return the largest size up to 8 that fits and divides the attention and the key-value heads."""
    heads = (limits.num_attention_heads, limits.num_key_value_heads)
    sizes = range(min(num_accelerators, MAX_TENSOR_PARALLEL_SIZE), 1, -1)
    return next((size for size in sizes if all(num % size == 0 for num in heads)), 1)
