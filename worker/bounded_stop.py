"""Runs a service of a worker process, and ends the process by force if the service does not stop in time."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from typing import Any

from common.command_exit import FAILED
from common.forced_end import end_after

STOP_TIMEOUT_S = 90.0
"""Time from the end of the drain, or the engine's death, to the end of the process.

Calls end within 1 s, the engine gives up its requests within 22 s and its processes within 30 s. A thread
that hangs, for example in a load or on a network disk, would hold the end of the event loop for 300 s.
"""


def run_service(run: Callable[[Callable[[], None]], Coroutine[Any, Any, None]]) -> None:
    """Run a service to its end.

    Args:
        run: Returns the service's coroutine; takes what it calls, once, when it begins to stop.

    Thread: main.
    """
    with ExitStack() as stack:

        def bound_the_stop() -> None:
            stack.callback(end_after(STOP_TIMEOUT_S, FAILED))

        asyncio.run(run(bound_the_stop))
