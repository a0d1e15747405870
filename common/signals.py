"""Signals that end a program: the first starts an orderly exit, a later one ends the process at once.

A signal that the process inherited as ignored stays ignored: SIGHUP under nohup, SIGINT and SIGQUIT in the
background of a shell script.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import FrameType
from typing import Any, TypeVar

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
"""SIGHUP: the terminal was closed."""
SAME_CAUSE_S = 1.0
"""A signal within this time after the first is a duplicate: batch system and job script may both send it."""
CLEAN_UP_S = 20.0
"""Patience of programs that stop other programs, or print figures, after the first signal."""
SIGNAL_POLL_S = 0.5
"""Longest blocking wait of the main thread: a signal delivered to another thread does not interrupt it."""
_REPEAT_S = 0.01
_T = TypeVar("_T")


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

    Python also drops an exception that is raised while it runs a finalizer, for example during a garbage
    collection, and passes it to sys.unraisablehook. Interrupted is then raised again a moment later.
    """

    def __init__(self, *, patience_s: float = SAME_CAUSE_S) -> None:
        """Install the handler.

        Args:
            patience_s: Time after the first signal in which later ones do nothing, because the program
                cleans up; one that arrives after it ends the process at once.
        """
        self._patience_s = patience_s
        self._held = False
        self._first_s: float | None = None
        self._first_signum = 0
        self._report_unraisable = sys.unraisablehook
        sys.unraisablehook = self._take_unraisable
        for signum in handled_signals():
            signal.signal(signum, self._take)

    def hold(self) -> None:
        """Stop raising, because the program is already ending, or calls `check`.

        A later signal still ends the process.
        """
        self._held = True

    def resume(self) -> None:
        """Raise again at the first signal, at once if it arrived since `hold`.

        Raises:
            Interrupted: A signal has arrived.
        """
        self._held = False
        self.check()

    def check(self) -> None:
        """Raise if a signal has arrived, also while held.

        Raises:
            Interrupted: A signal has arrived.
        """
        if self._first_s is not None:
            raise Interrupted(self._first_signum)

    def _take(self, signum: int, _: FrameType | None) -> None:
        if self._first_s is not None:
            if time.monotonic() - self._first_s > self._patience_s:
                signal.signal(signum, signal.SIG_DFL)
                signal.raise_signal(signum)
            return
        self._first_s, self._first_signum = time.monotonic(), signum
        self._raise()

    def _raise(self) -> None:
        if not self._held:
            raise Interrupted(self._first_signum)

    def _take_unraisable(self, lost: "sys.UnraisableHookArgs") -> None:
        if not issubclass(lost.exc_type, Interrupted):
            self._report_unraisable(lost)
            return
        # Raised here it would be lost again: the finalizer has not returned.
        signal.signal(signal.SIGALRM, lambda *_: self._raise())
        signal.setitimer(signal.ITIMER_REAL, _REPEAT_S)


def run_until_signal(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on a new event loop; the first signal cancels it, a later one reaches its handler.

    asyncio logs and drops what a signal handler raises in a callback of the loop, and keeps what it raises in
    a task as the result of that task.

    Raises:
        Interrupted: A signal arrived, and its handler is that of Interrupts.

    Thread: main.
    """
    handlers = {signum: signal.getsignal(signum) for signum in handled_signals()}
    arrived: list[Interrupted] = []

    def take(signum: int, frame: FrameType | None) -> None:
        handler = handlers[signal.Signals(signum)]
        try:
            if callable(handler):
                handler(signum, frame)
        except Interrupted as interruption:
            arrived.append(interruption)

    try:
        for signum in (number for number, handler in handlers.items() if callable(handler)):
            signal.signal(signum, take)
        with asyncio.Runner() as runner:
            return runner.run(_until(arrived, work))
    finally:
        with signals_held():
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
        if arrived:
            raise arrived[0]


async def _until(arrived: Sequence[Interrupted], work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine until `arrived` has an entry.

    Raises:
        CancelledError: It has one.
    """
    working = asyncio.ensure_future(work)
    # A signal delivered to another thread does not wake the loop.
    while not arrived and not working.done():
        await asyncio.wait((working,), timeout=SIGNAL_POLL_S)
    if arrived:
        working.cancel()
    return await working
