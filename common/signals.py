"""SIGINT and SIGTERM: the first one ends the program in order, a later one at once."""

import signal
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_CAUSE_S = 1.0
"""A signal this soon after the first is a copy: a batch system and a script that forwards it send two."""
SIGNAL_POLL_S = 0.5
"""Longest wait of the main thread: a signal that another thread receives does not interrupt it."""


class Interrupted(BaseException):
    """A signal asked the program to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.exit_code = 128 + signum


class Interrupts:
    """Turns the first signal into an exception on the main thread, which alone calls the methods.

    The handler is never replaced after the first signal: if two signals arrive together and the first one's
    handler installs another, Python drops that exception and prints that it was ignored.
    """

    def __init__(self, *, ignores_later: bool = False) -> None:
        """Install the handler.

        Args:
            ignores_later: Later signals do nothing: the clean-up after the first is bounded.
        """
        self._ignores_later = ignores_later
        self._held = self._ignored = False
        self._first_s: float | None = None
        for signum in SIGNALS:
            signal.signal(signum, self._take)

    def hold(self) -> None:
        """Raise no more: the program already ends. A signal after a first one still ends the process."""
        self._held = True

    def ignore(self) -> None:
        """Ignore signals from now on: the rest of the program is short and must be complete."""
        self._ignored = True

    def _take(self, signum: int, _: FrameType | None) -> None:
        if self._ignored:
            return
        if self._first_s is not None:
            if not self._ignores_later and time.monotonic() - self._first_s > SAME_CAUSE_S:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            return
        self._first_s = time.monotonic()
        if not self._held:
            raise Interrupted(signum)
