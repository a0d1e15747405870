"""Real time for the steps of an engine without a model."""

import asyncio
import time


class StepClock:
    """Waits until each step is due; one step begins when the previous one was due."""

    def __init__(self) -> None:
        self._due_s = 0.0

    async def wait(self, step_s: float) -> None:
        """Sleep until a step of `step_s` seconds is due; a delay of more than a step is not caught up."""
        now_s = time.monotonic()
        # Counted from when the last step was due, so that the timer's lateness does not add up.
        self._due_s = max(self._due_s, now_s - step_s) + step_s
        await asyncio.sleep(max(self._due_s - now_s, 0.0))
