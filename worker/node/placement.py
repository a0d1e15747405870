"""Divide accelerators and cores among the replicas of a node; pure functions."""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from common.flags import FlagError, Parser
from worker.machine.cores import Cores
from worker.machine.gpus import Device

# Names in vLLM and in SGLang.
TENSOR_PARALLEL_FLAGS = ("--tensor-parallel-size", "--tensor_parallel_size", "--tp-size", "-tp")
PIPELINE_PARALLEL_FLAGS = ("--pipeline-parallel-size", "--pipeline_parallel_size", "--pp-size", "-pp")
NNODES_FLAGS = ("--nnodes", "-n")


class Share(NamedTuple):
    """Accelerators and cores of one replica."""

    devices: tuple[str, ...]
    """Names of its accelerators; empty if the machine has none or the engine needs none."""
    cores: Cores
    """Ascending; empty if the node has fewer cores than replicas: the replica may then use all cores."""


class Size(NamedTuple):
    """Ranks of one replica, from the engine's flags."""

    tensor_parallel: int | None
    """None if not given: as many accelerators as are available."""
    pipeline_parallel: int

    @property
    def num_ranks(self) -> int:
        """Number of ranks; the minimum if the tensor parallel size is not given."""
        return (self.tensor_parallel or 1) * self.pipeline_parallel


def read_size(engine_argv: list[str]) -> Size:
    """Read the size of a replica from the flags of vLLM or SGLang; other flags are ignored.

    Raises:
        ValueError: A size is not a number or is below 1, or a replica has more than one node.
    """
    parser = Parser(allow_abbrev=False, add_help=False)
    parser.add_argument(*NNODES_FLAGS, type=_at_least_one, default=1)
    parser.add_argument(*TENSOR_PARALLEL_FLAGS, type=_at_least_one)
    parser.add_argument(*PIPELINE_PARALLEL_FLAGS, type=_at_least_one, default=1)
    values, _ = parser.parse_known_args(engine_argv)
    if values.nnodes > 1:
        reason = f"several replicas share one machine, but --nnodes {values.nnodes} divides one over machines"
        raise FlagError("--replicas", reason)
    return Size(values.tensor_parallel_size, values.pipeline_parallel_size)


def place(num_replicas: int, size: Size, devices: Sequence[Device], cores: Sequence[int]) -> list[Share]:
    """Assign consecutive accelerators and a part of their NUMA-local cores to each replica.

    Args:
        num_replicas: Number of replicas.
        size: Size of each replica.
        devices: All accelerators; if empty, replicas run on the CPU, and each rank needs at least one core.
        cores: All cores that the node may use.

    Raises:
        FlagError: The replicas need more accelerators or cores than the machine has.
    """
    requested = f"{num_replicas} of {size.num_ranks} ranks each"
    if not devices:
        if num_replicas * size.num_ranks > len(cores):
            reason = f"{requested} on {len(cores)} cores: no accelerator is visible, each rank needs a core"
            raise FlagError("--replicas", reason)
        return [Share((), part) for part in split(cores, num_replicas)]
    needed = num_replicas * size.num_ranks
    if needed > len(devices):
        reason = f"{requested} need {needed} accelerators, {len(devices)} are visible"
        raise FlagError("--replicas", reason)
    each = len(devices) // num_replicas if size.tensor_parallel is None else size.num_ranks
    sets = [devices[index * each : (index + 1) * each] for index in range(num_replicas)]
    near = [_cores_near(chosen, cores) for chosen in sets]
    return [
        Share(tuple(device.name for device in chosen), _part(near, index))
        for index, chosen in enumerate(sets)
    ]


def split(cores: Sequence[int], num: int) -> list[Cores]:
    """Split cores into contiguous parts of nearly equal length; empty parts if there are too few cores."""
    if len(cores) < num:
        return [()] * num
    bounds = [index * len(cores) // num for index in range(num + 1)]
    return [tuple(cores[first:last]) for first, last in pairwise(bounds)]


def _cores_near(chosen: Sequence[Device], cores: Sequence[int]) -> Cores:
    """Return the NUMA-local cores of a replica's devices; all cores if unknown."""
    near = {core for device in chosen for core in device.cores} & set(cores)
    return tuple(sorted(near or cores))


def _part(near: list[Cores], index: int) -> Cores:
    """Divide cores among the replicas with the same NUMA-local cores; returns one replica's part."""
    sharing = [other for other, cores in enumerate(near) if cores == near[index]]
    return split(near[index], len(sharing))[sharing.index(index)]


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1 or not a whole number")
    return int(text)
