"""Ends a process that does not end by itself in time, and shows on stderr where its threads wait."""

import faulthandler
import os
import signal
import threading
from collections.abc import Callable

SHOW_TIMEOUT_S = 0.5
"""Time to write the stacks: the disk or terminal behind stderr may not answer."""
_WITHOUT_GIL_S = 1.5
_BY_KERNEL_S = 2.5
_STDERR = 2


def end_after(limit_s: float, code: int) -> Callable[[], None]:
    """End the process with an exit code after a time, unless it has ended before.

    A thread that keeps the interpreter's lock (the GIL) also stops the timer. faulthandler's own thread
    then shows the stacks and ends the process with exit code 1, 1.5 s after the limit. If stderr takes no
    text, the kernel ends it by SIGALRM, another second later.

    Returns:
        A function that calls it off.

    Thread: main, as the function that is returned.
    """
    timer = threading.Timer(limit_s, _end, (limit_s, code))
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(limit_s + _WITHOUT_GIL_S, exit=True, file=_STDERR)
    # First the timer: it may run already, for the handler that SIGALRM has until now.
    signal.setitimer(signal.ITIMER_REAL, limit_s + _BY_KERNEL_S)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)

    def call_off() -> None:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)

    return call_off


def _end(limit_s: float, code: int) -> None:
    # Without a lock of the log or of sys.stderr: a thread that hangs may hold it.
    try:
        text = f"ended by force after {limit_s:g} s; the threads were at:\n{_stacks()}".encode()
        showing = threading.Thread(target=os.write, args=(_STDERR, text), daemon=True)
        showing.start()
        showing.join(SHOW_TIMEOUT_S)
    finally:
        # Also if the process can have no more threads.
        os._exit(code)


def _stacks() -> str:
    """Return the stacks of all threads; faulthandler writes to a file only, and a disk may hang."""
    try:
        descriptor = os.memfd_create("stacks")
    except OSError as error:
        return f"not known: {error.strerror}\n"
    with os.fdopen(descriptor, "w+b") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        return file.read().decode(errors="replace")
