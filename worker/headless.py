"""Life cycle of a worker process that serves nothing itself: it runs a follower's part of an engine."""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from common.signals import stop_at_signals
from worker.config import BadInput, WorkerConfig
from worker.engine_protocol import EngineDead
from worker.machine.sd_notify import READY, STOPPING, notify
from worker.server import wait_any

logger = logging.getLogger(__name__)


class EnginePart(Protocol):
    """One node's part of an engine whose head is on another node."""

    async def start(self) -> None:
        """Join the head and load this part.

        Raises:
            ValueError: The configuration cannot be served.
            EngineDead: The part or the head failed.
        """
        ...

    async def wait_end(self) -> str:
        """Wait until this part or the head has ended; return the reason.

        Raises:
            ValueError: The model cannot be used.
        """
        ...

    async def close(self) -> None:
        """Stop the part and all processes that it started; also called when `start` failed."""
        ...


class HeadlessServer:
    """Runs one part of an engine until the head ends, the part fails, or a signal arrives."""

    def __init__(self, config: WorkerConfig, part: EnginePart) -> None:
        """Create it without starting the part."""
        self._drain_timeout_s = config.drain_timeout_s
        self._part = part
        self._stop = asyncio.Event()
        self._is_stopping = False

    async def run(self, on_stop: Callable[[], None]) -> None:
        """Handle signals and run; one call per process.

        Args:
            on_stop: Called when the part begins to stop.

        Raises:
            BadInput: The head or the engine refuses the configuration.
            EngineDead: The head has ended, or this part has failed.
        """
        stop_at_signals(self.stop, lambda: self._is_stopping)
        try:
            await self._run_part()
        except ValueError as error:
            raise BadInput(error) from error
        finally:
            on_stop()
            notify(STOPPING)
            await self._part.close()

    def stop(self) -> None:
        """Stop when the head has stopped, at the latest after the drain timeout; a second call: at once."""
        self._is_stopping = True
        self._stop.set()

    async def _run_part(self) -> None:
        logger.info("loading")
        starting = asyncio.ensure_future(self._part.start())
        await wait_any(asyncio.wait({starting}), self._stop.wait())
        if not starting.done():
            starting.cancel()
            return
        starting.result()
        logger.info("ready: the head serves, this node has no port")
        notify(READY)
        ended = asyncio.ensure_future(self._part.wait_end())
        await wait_any(asyncio.wait({ended}), self._stop.wait())
        if ended.done():
            raise EngineDead(ended.result())
        # The head may have got the signal too, and drains.
        self._stop.clear()
        logger.info("stopping: waits up to %g s for the head to stop", self._drain_timeout_s)
        await wait_any(asyncio.wait({ended}), self._stop.wait(), timeout_s=self._drain_timeout_s)
        ended.cancel()
