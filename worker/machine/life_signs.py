"""Signs of life: a replica's event loop touches the memory that it shares with its node, once a second."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from worker.machine.parent_death import is_replica

SHARED_FD = "TOKENFLEET_SHARED_FD"
"""Set by a node for its replicas: descriptor of a replica's SharedReadings."""
INTERVAL_S = 1.0


@contextlib.asynccontextmanager
async def giving_life_signs() -> AsyncIterator[None]:
    """Give a sign of life every INTERVAL_S inside a `with` block, in a replica; a blocked loop gives none.

    Raises:
        OSError: The memory that is shared with the node takes none.
    """
    if not is_replica():
        yield
        return
    shared_fd = int(os.environ[SHARED_FD])
    # Where this fails the replica ends with the error; without signs its node would take it for hung.
    os.utime(shared_fd)
    giving = asyncio.ensure_future(_give(shared_fd))
    try:
        yield
    finally:
        giving.cancel()


async def _give(shared_fd: int) -> None:
    while True:
        await asyncio.sleep(INTERVAL_S)
        os.utime(shared_fd)


def last_life_sign(shared_fd: int) -> int:
    """Return a number that each sign of life changes."""
    return os.fstat(shared_fd).st_mtime_ns
