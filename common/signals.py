"""SIGINT and SIGTERM: the first one ends the run in order, a later one ends the process at once."""

import signal
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_CAUSE_S = 1.0
"""Signals this close to the first one have the same cause: a batch system and a script may both send one."""
SIGNAL_POLL_S = 0.5
"""Longest wait of the main thread: a signal delivered to another thread does not end the wait."""


class Interrupted(BaseException):
    """A signal asked the run to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Interrupts:
    """Turns the first signal into an exception on the main thread, which calls every method.

    The handler stays installed until the process ends. If it were replaced, Python would drop the exception
    of a signal that arrived together with another one, and print that it was ignored.
    """

    def __init__(self) -> None:
        """Install the handler."""
        self._held = self._ignored = False
        self._first_s: float | None = None
        for signum in SIGNALS:
            signal.signal(signum, self._take)

    def hold(self) -> None:
        """Raise no more: the run already ends. A signal after a first one still ends the process."""
        self._held = True

    def ignore(self) -> None:
        """Ignore all signals: what remains is short and must be complete."""
        self._ignored = True

    def _take(self, signum: int, _: FrameType | None) -> None:
        if self._ignored:
            return
        if self._first_s is not None:
            if time.monotonic() - self._first_s > SAME_CAUSE_S:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            return
        self._first_s = time.monotonic()
        if not self._held:
            raise Interrupted(signum)
