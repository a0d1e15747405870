"""What SIGINT and SIGTERM mean: the first one ends the run in order, a later one at once."""

import signal
import time
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_CAUSE_S = 1.0
"""Signals so close to the first have its cause: a batch system and a script that passes it on send two."""
SIGNAL_POLL_S = 0.5
"""Longest wait of the main thread: a signal given to another thread does not end it."""


class Interrupted(BaseException):
    """A signal asked the run to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Interrupts:
    """Turns the first signal into an exception on the main thread; every method is main's.

    The handler stays the same all along: were it replaced, Python would forget the exception of a signal with
    which another one came, and print that this one was ignored.
    """

    def __init__(self) -> None:
        """Take the signals over."""
        self._held = self._ignored = False
        self._pending: int | None = None
        self._first_s: float | None = None
        for signum in SIGNALS:
            signal.signal(signum, self._take)

    def hold(self) -> None:
        """Let a signal wait for `release`."""
        self._held = True

    def release(self) -> None:
        """Let signals through again.

        Raises:
            Interrupted: One came meanwhile.
        """
        self._held = False
        if self._pending is not None:
            raise Interrupted(self._pending)

    def ignore(self) -> None:
        """Let no signal end what is left: it is short and must be whole."""
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
        if self._held:
            self._pending = signum
        else:
            raise Interrupted(signum)
