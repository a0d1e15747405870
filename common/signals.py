"""Signals that end a program: the first starts an orderly exit, a later one ends the process at once.

A signal that the process inherited as ignored stays ignored: SIGHUP under nohup, SIGINT and SIGQUIT in the
background of a shell script.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""SIGHUP: the terminal was closed."""
SAME_CAUSE_S = 1.0
"""A signal within this time after the first is a duplicate: batch system and job script may both send it."""
SIGNAL_POLL_S = 0.5
"""Longest blocking wait of the main thread: a signal delivered to another thread does not interrupt it."""


class Interrupted(BaseException):
    """The program received one of SIGNALS."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.exit_code = 128 + signum


def handled_signals() -> tuple[signal.Signals, ...]:
    """Return SIGNALS without those that this process inherited as ignored."""
    return tuple(signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN)


@contextlib.contextmanager
def signals_held() -> Iterator[set[int]]:
    """Block SIGNALS inside a `with` block and yield the old mask: fork's hooks would lose the exception."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield {int(signum) for signum in mask}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def stop_at_signals(stop: Callable[[], None], is_stopping: Callable[[], bool]) -> None:
    """Call `stop` on the running event loop at each signal.

    SIGHUP only starts a stop: when a terminal is closed, the shell and the kernel may each send it.
    """

    def hang_up() -> None:
        if not is_stopping():
            stop()

    loop = asyncio.get_running_loop()
    for signum in handled_signals():
        loop.add_signal_handler(signum, hang_up if signum is signal.SIGHUP else stop)


class Interrupts:
    """Raises Interrupted on the main thread at the first signal; only that thread calls the methods.

    The first signal does not replace the handler: if two signals arrive together and the first one's handler
    installs another handler, Python prints that the exception was ignored and drops it.
    """

    def __init__(self, *, ignores_later: bool = False) -> None:
        """Install the handler.

        Args:
            ignores_later: Ignore later signals, for programs whose clean-up is bounded in time.
        """
        self._ignores_later = ignores_later
        self._held = False
        self._first_s: float | None = None
        self._first_signum = 0
        for signum in handled_signals():
            signal.signal(signum, self._take)

    def hold(self) -> None:
        """Stop raising, because the program is already ending; a second signal still kills the process."""
        self._held = True

    def resume(self) -> None:
        """Raise again at the first signal, at once if it arrived since `hold`.

        Raises:
            Interrupted: A signal has arrived.
        """
        self._held = False
        if self._first_s is not None:
            raise Interrupted(self._first_signum)

    def _take(self, signum: int, _: FrameType | None) -> None:
        if self._first_s is not None:
            if not self._ignores_later and time.monotonic() - self._first_s > SAME_CAUSE_S:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            return
        self._first_s, self._first_signum = time.monotonic(), signum
        if not self._held:
            raise Interrupted(signum)
