"""Which accelerators and cores each replica of a node gets; pure, the machine is in accelerators.py."""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from worker.config import Parser
from worker.machine.cores import Cores


class Device(NamedTuple):
    """One accelerator."""

    name: str
    """As CUDA_VISIBLE_DEVICES names it."""
    cores: Cores
    """Of its NUMA node, ascending; empty where the machine does not tell."""


class Share(NamedTuple):
    """What one replica has to itself."""

    devices: tuple[str, ...]
    """Empty: there are none, or it needs none."""
    cores: Cores
    """Ascending; empty: all of the node's, which has fewer than replicas."""


class Size(NamedTuple):
    """Ranks of one replica, as its engine's flags give them."""

    tensor_parallel: int | None
    """None: not given, as many as fit."""
    pipeline_parallel: int

    @property
    def num_ranks(self) -> int:
        """Count what the flags ask for, at least."""
        return (self.tensor_parallel or 1) * self.pipeline_parallel


def read_size(engine_argv: list[str]) -> Size:
    """Read the size of a replica from vLLM's flags; the others are its engine's business.

    Raises:
        ValueError: A size that is no number or below 1.
    """
    parser = Parser(allow_abbrev=False, add_help=False)
    parser.add_argument("--tensor-parallel-size", "--tensor_parallel_size", "-tp", type=_at_least_one)
    parser.add_argument(
        "--pipeline-parallel-size", "--pipeline_parallel_size", "-pp", type=_at_least_one, default=1
    )
    values, _ = parser.parse_known_args(engine_argv)
    return Size(values.tensor_parallel_size, values.pipeline_parallel_size)


def place(num_replicas: int, size: Size, devices: Sequence[Device], cores: Sequence[int]) -> list[Share]:
    """Divide accelerators among replicas, neighbours to one, and to each a part of its cores.

    Args:
        num_replicas: R.
        size: Of each.
        devices: All there are; none: replicas compute on cores, a rank at least on one.
        cores: All that the node may use.

    Raises:
        ValueError: R replicas are larger than the machine.
    """
    wanted = f"--replicas: {num_replicas} of {size.num_ranks} ranks each"
    if not devices:
        if num_replicas * size.num_ranks > len(cores):
            raise ValueError(
                f"{wanted} on {len(cores)} cores: no accelerator is visible, a rank needs a core"
            )
        return [Share((), part) for part in split(cores, num_replicas)]
    needed = num_replicas * size.num_ranks
    if needed > len(devices):
        raise ValueError(f"{wanted} need {needed} accelerators, {len(devices)} are visible")
    each = len(devices) // num_replicas if size.tensor_parallel is None else size.num_ranks
    sets = [devices[index * each : (index + 1) * each] for index in range(num_replicas)]
    near = [_cores_near(chosen, cores) for chosen in sets]
    return [
        Share(tuple(device.name for device in chosen), _part(near, index))
        for index, chosen in enumerate(sets)
    ]


def split(cores: Sequence[int], num: int) -> list[Cores]:
    """Cut cores into runs of neighbours of nearly equal length; none for anyone if there are too few."""
    if len(cores) < num:
        return [()] * num
    bounds = [index * len(cores) // num for index in range(num + 1)]
    return [tuple(cores[first:last]) for first, last in pairwise(bounds)]


def _cores_near(chosen: Sequence[Device], cores: Sequence[int]) -> Cores:
    """Collect the cores near a replica's devices; all where the machine does not tell."""
    near = {core for device in chosen for core in device.cores} & set(cores)
    return tuple(sorted(near or cores))


def _part(near: list[Cores], index: int) -> Cores:
    """Divide cores among the replicas that have the same ones near."""
    sharing = [other for other, cores in enumerate(near) if cores == near[index]]
    return split(near[index], len(sharing))[sharing.index(index)]


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1 or no whole number")
    return int(text)
