"""How long a peer has been quiet, in the waking time of this process."""

import time


class IdleTimer:
    """Counts seconds without a sign, a tick at a time.

    A tick adds at most two tick lengths: while this process is stopped, or its event loop is held up, nothing
    can be heard, and that is not the peer's silence.
    """

    def __init__(self, tick_s: float) -> None:
        """Begin with a sign heard just now.

        Args:
            tick_s: How often `tick` is called.
        """
        self._tick_s = tick_s
        self._last_tick_s = time.monotonic()
        self._heard = False
        self.quiet_s = 0.0
        """Seconds without a sign, as of the last tick."""

    def hear(self) -> None:
        """Take a sign."""
        self._heard = True

    def tick(self) -> None:
        """Let time pass."""
        now_s = time.monotonic()
        self.quiet_s += min(now_s - self._last_tick_s, 2 * self._tick_s)
        self._last_tick_s = now_s
        if self._heard:
            self.quiet_s = 0.0
            self._heard = False
