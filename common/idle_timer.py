"""Idle timer that ignores time during which this process was suspended or its event loop blocked."""

import time


class IdleTimer:
    """Counts seconds without activity, updated at each tick.

    A tick adds at most two tick lengths: while this process is suspended, or its event loop blocked, it
    receives nothing, so that time does not show that the peer is idle.
    """

    def __init__(self, tick_s: float) -> None:
        """Start the timer at 0.

        Args:
            tick_s: Interval at which `tick` is called.
        """
        self._tick_s = tick_s
        self._last_tick_s = time.monotonic()
        self._active = False
        self.idle_s = 0.0
        """Seconds without activity, as of the last tick."""

    def mark_active(self) -> None:
        """Note activity; the next tick resets the timer."""
        self._active = True

    def tick(self) -> None:
        """Add the time since the last tick, or reset the timer after activity."""
        now_s = time.monotonic()
        self.idle_s += min(now_s - self._last_tick_s, 2 * self._tick_s)
        self._last_tick_s = now_s
        if self._active:
            self.idle_s = 0.0
            self._active = False
