"""The final status of a call: the worker's own status if it sent one."""

import asyncio
import contextlib
from typing import Any

import grpc

BROKEN_WRITE = "Internal error from Core"
"""Details of the status that grpc.aio gives a call when a write fails."""
POLL_INTERVAL_S = 0.01
Status = tuple[grpc.StatusCode, str]


class FinalStatus:
    """Final status of one call.

    If the worker ends the call while a write is in flight, gRPC also sets an internal status (grpc issue
    36066), before or after the worker's; the later one replaces the earlier one.
    """

    def __init__(self) -> None:
        """Create it without a status; pass `note` to the call's add_done_callback."""
        self._status: Status | None = None

    def note(self, call: Any) -> None:
        """Store the call's current status, unless the worker's own status is already stored.

        Args:
            call: A call that is done; its code() and details() return without waiting.
        """

        async def read() -> Status:
            return await call.code(), await call.details()

        reading = read()
        if self._is_open:
            try:
                reading.send(None)
            except StopIteration as done:
                self._status = done.value
        reading.close()

    async def wait(self, call: Any, timeout_s: float) -> Status | None:
        """Wait for the worker's status; on timeout returns the failed write's status, or None."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await call.code()
                self.note(call)
                while self._is_open:
                    await asyncio.sleep(POLL_INTERVAL_S)
                    self.note(call)
        return self._status

    @property
    def _is_open(self) -> bool:
        return self._status is None or self._status[1] == BROKEN_WRITE
