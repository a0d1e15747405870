"""The status in which a call ends, in the worker's own words where it had any."""

import asyncio
import contextlib
from typing import Any

import grpc

BROKEN_WRITE = "Internal error from Core"
"""Details of the status that grpc.aio gives a call when a write fails."""
POLL_INTERVAL_S = 0.01
Status = tuple[grpc.StatusCode, str]


class FinalStatus:
    """Of one call: a write under way when the worker ends it sets another status (grpc issue 36066).

    That one comes before the worker's or after it, and the later one replaces the other.
    """

    def __init__(self) -> None:
        """Give `note` to the call's add_done_callback."""
        self._status: Status | None = None

    def note(self, call: Any) -> None:
        """Take the status that is there, unless the worker's own has come.

        code() and details() of a call that is done do not wait.

        Args:
            call: One that is done.
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
        """Wait for the worker's status; a broken write's if no other comes in time, None if none does."""
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
