"""Cores for the processes of a benchmark."""

import contextlib
import os
from collections.abc import Iterator


def split_cores() -> tuple[set[int], set[int]]:
    """Divide the cores that this process may use: one for the fleet, the others for the coordinator.

    Returns:
        Both; the same one twice where there is but one.
    """
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others or [first])


@contextlib.contextmanager
def started_on(cores: set[int]) -> Iterator[None]:
    """Have processes that are started in a block run on these cores; this thread waits there too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
