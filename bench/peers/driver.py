"""The interface of a peer's driver, and how it fails."""

import asyncio
import logging
import os
from typing import Any, Protocol

from sut.sut import SUT, Reports

logger = logging.getLogger(__name__)


class Driver(Protocol):
    """The requests in flight over one transport; runs on the event loop of the main thread."""

    sut: SUT
    """Takes LoadGen's queries."""
    reports: Reports
    """Goes to LoadGen."""

    @property
    def num_messages(self) -> int:
        """Count the messages with tokens that came."""

    async def connect(self) -> None:
        """Connect, as far as the transport can before there are requests."""

    async def settle(self) -> None:
        """Wait until nothing is in flight."""

    async def close(self) -> None:
        """Close all connections."""


def die(error: BaseException) -> None:
    """End the process: LoadGen has no abort, and its test would wait for ever.

    Thread: any.
    """
    logger.error("run failed", exc_info=error)
    os._exit(1)


def die_on_loop_errors() -> None:
    """End the process for what a callback of the running loop raises; asyncio would only log it."""

    def fail(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        die(context.get("exception") or RuntimeError(context["message"]))

    asyncio.get_running_loop().set_exception_handler(fail)
