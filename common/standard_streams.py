"""Standard streams of a command: always open, written without waiting during a run, flushed at its end."""

import collections
import contextlib
import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, NoReturn, Self, TextIO, cast

MAX_WAITING_CHARS = 1 << 20
"""Text that waits for a stream; more is dropped."""
DRAIN_TIMEOUT_S = 5.0
_RETRY_S = 0.05


def open_standard_streams() -> None:
    """Open /dev/null in place of each standard stream that was closed when the process started.

    Otherwise the next file that is opened gets its number, and receives what libraries print.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, descriptor)
            if null != descriptor:
                os.close(null)
            os.set_inheritable(descriptor, True)
    # They stay open for the life of the process.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        errors = "backslashreplace"
        sys.stderr = open(2, "w", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115


def log_to_stderr() -> None:
    """Log to the present stderr; each line begins with time, level and module."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send whatever is written to stdout inside a `with` block to stderr, also by libraries in C."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def leave(code: int) -> NoReturn:
    """Flush the standard streams and end the process without interpreter shutdown.

    A daemon thread of gRPC or LoadGen that calls into Python during the shutdown is ended by an exception
    that C++ does not expect; the process then aborts with "terminate called without an active exception".
    Libraries that vLLM loads print reports of leaks during the shutdown. All child processes have ended.
    """
    if isinstance(sys.stderr, BackgroundStream):
        sys.stderr.drain(DRAIN_TIMEOUT_S)
    failures: list[OSError] = []
    flushing = threading.Thread(target=_flush, args=(failures.append,), daemon=True)
    flushing.start()
    flushing.join(DRAIN_TIMEOUT_S)
    # What the command printed is not where the user sent it: a full disk, a closed pipe.
    os._exit(code or (1 if failures else 0))


def _flush(report: Callable[[OSError], None]) -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            report(error)


@contextlib.contextmanager
def background_output() -> Iterator["BackgroundStream"]:
    """Write stdout and stderr on threads within a `with` block; yields stdout.

    If both lead to the same file or terminal they share a thread, which keeps the order of their lines.
    """
    with contextlib.ExitStack() as stack:
        share = os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
        stdout = stack.enter_context(BackgroundStream("stdout"))
        if share:
            stack.enter_context(contextlib.redirect_stderr(cast(TextIO, stdout)))
        else:
            stack.enter_context(BackgroundStream("stderr"))
        yield stdout


class BackgroundStream(io.TextIOBase):
    """Replaces sys.stdout or sys.stderr, also in the log, by a queue and a thread within a `with` block.

    A disk or a terminal that takes no output then stops no thread of the program. Text beyond
    MAX_WAITING_CHARS is dropped, and counted.
    """

    def __init__(self, name: Literal["stdout", "stderr"]) -> None:
        """Take the stream of sys, which must have a file descriptor; nothing is replaced yet."""
        self._name = name
        self._original: TextIO = getattr(sys, name)
        self._descriptor: int = self._original.fileno()
        self.failure: OSError | None = None
        """Why text could not be written, the first time; None as long as all could."""
        # Guards the attributes below. Never held while the thread writes.
        self._changed = threading.Condition()
        self._waiting: collections.deque[str] = collections.deque()
        self._num_chars = 0
        self._num_dropped = 0
        self._writing = self._closed = False
        threading.Thread(target=self._write_waiting, name=name, daemon=True).start()

    def __enter__(self) -> Self:
        self._original.flush()
        self._replace(self._original, cast(TextIO, self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait until everything is written, with a bound, and restore the stream."""
        self.drain(DRAIN_TIMEOUT_S)
        self._replace(self, self._original)
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def fileno(self) -> int:
        """Return the descriptor of the original."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether the original is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str, /) -> int:
        """Queue text, or drop it if too much is waiting.

        Thread: any; does not block.
        """
        with self._changed:
            if self._num_chars + len(text) > MAX_WAITING_CHARS:
                self._num_dropped += 1
            elif text:
                self._waiting.append(text)
                self._num_chars += len(text)
                self._changed.notify_all()
        return len(text)

    def drain(self, timeout_s: float) -> bool:
        """Wait until everything is written; False if it is not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._writing, timeout_s)

    def _replace(self, before: object, after: TextIO) -> None:
        setattr(sys, self._name, after)
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                handler.setStream(after)

    def _write_waiting(self) -> None:
        """Thread: the stream's own."""
        # While the main thread blocks signals, this one would take them.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while text := self._take_waiting():
            self._write_out(text.encode("utf-8", "backslashreplace"))

    def _take_waiting(self) -> str:
        """Wait for text and return all of it; empty after the `with` block."""
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._closed)
            text = "".join(self._waiting)
            if self._num_dropped:
                text += f"({self._num_dropped} messages were dropped: {self._name} took no output)\n"
            self._waiting.clear()
            self._num_chars = self._num_dropped = 0
            self._writing = True
        return text

    def _write_out(self, content: bytes) -> None:
        """Write; what a closed pipe, a closed terminal or a full disk refuses is lost."""
        while content:
            try:
                content = content[os.write(self._descriptor, content) :]
            except BlockingIOError:
                time.sleep(_RETRY_S)
            except OSError as error:
                self.failure = self.failure or error
                return
