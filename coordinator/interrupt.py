"""What SIGINT and SIGTERM mean: the first one ends the run in order, a second one at once."""

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal asked the run to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Interrupts:
    """Turns the first signal into an exception on the main thread; every method is main's."""

    def __init__(self) -> None:
        """Take the signals over."""
        self._held = False
        self._pending: int | None = None
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
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_IGN)

    def _take(self, signum: int, _: FrameType | None) -> None:
        for other in SIGNALS:
            signal.signal(other, signal.SIG_DFL)
        if self._held:
            self._pending = signum
        else:
            raise Interrupted(signum)
