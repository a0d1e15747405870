"""Paces the steps of a scripted engine in real time."""

import asyncio
import time


class StepClock:
    """Waits until each step is due; a step starts when the previous one was due."""

    def __init__(self) -> None:
        self._due_s = 0.0

    def begin(self) -> None:
        """Let the next step start now: the engine was idle."""
        self._due_s = time.monotonic()

    async def wait(self, step_s: float) -> None:
        """Sleep until a step of `step_s` seconds is due; a delay of more than a step is not caught up."""
        now_s = time.monotonic()
        # Relative to the previous due time, so that timer delays do not accumulate.
        self._due_s = max(self._due_s, now_s - step_s) + step_s
        await asyncio.sleep(max(self._due_s - now_s, 0.0))
