"""Interface of a peer's driver, and how it ends the process on an error."""

import asyncio
import logging
import os
from typing import Any, Protocol

from sut.sut import SUT, Reports

logger = logging.getLogger(__name__)


class Driver(Protocol):
    """The requests in flight over one transport. Runs on the event loop of the main thread."""

    sut: SUT
    """Receives LoadGen's queries."""
    reports: Reports
    """Reports completions to LoadGen."""

    @property
    def num_messages(self) -> int:
        """Return the number of messages with tokens that were received."""

    async def connect(self) -> None:
        """Connect as far as the transport can before the first request."""

    async def settle(self) -> None:
        """Wait until no request is in flight."""

    async def close(self) -> None:
        """Close all connections."""


def die(error: BaseException) -> None:
    """End the process: LoadGen cannot abort a test, so its test would never end.

    Thread: any.
    """
    logger.error("run failed", exc_info=error)
    os._exit(1)


def die_on_loop_errors() -> None:
    """End the process when a callback of the running loop raises; asyncio would only log the exception."""

    def fail(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        die(context.get("exception") or RuntimeError(context["message"]))

    asyncio.get_running_loop().set_exception_handler(fail)
