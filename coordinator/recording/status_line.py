"""The status at the bottom of a terminal that is drawn again and again, with log lines above it."""

import contextlib
import logging
import os
import textwrap
import threading
from types import TracebackType
from typing import Self, TextIO

ERASE_LINE = "\r\x1b[K"
LINE_UP = "\x1b[1A"
DEFAULT_COLUMNS = 80


class StatusLine:
    """Owns the last lines of a terminal within a `with` block, and erases them at the end.

    Handlers of the root logger that write to the same terminal write through this object meanwhile.
    """

    def __init__(self, terminal: TextIO) -> None:
        """Prepare; nothing is written yet."""
        self._terminal = terminal
        self._lines = [""]
        # Log lines come from any thread.
        self._lock = threading.Lock()
        self._handlers: list[logging.StreamHandler[TextIO]] = []

    def __enter__(self) -> Self:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is self._terminal:
                handler.setStream(self)
                self._handlers.append(handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handler in self._handlers:
            handler.setStream(self._terminal)
        self.show("")

    def show(self, text: str) -> None:
        """Replace the status; text beyond the width of the terminal goes to more lines."""
        with self._lock:
            before = self._lines
            self._lines = textwrap.wrap(text, _num_columns(self._terminal) - 1) or [""]
            self._put(_erase(before) + "\n".join(self._lines))

    def write(self, text: str) -> int:
        """Write whole lines above the status.

        Thread: any.
        """
        with self._lock:
            self._put(_erase(self._lines) + text + "\n".join(self._lines))
        return len(text)

    def flush(self) -> None:
        """Do nothing: every write is flushed."""

    def _put(self, text: str) -> None:
        """Write; a closed terminal must not end the run."""
        with contextlib.suppress(OSError):
            self._terminal.write(text)
            self._terminal.flush()


def _erase(lines: list[str]) -> str:
    """Return what erases these lines when the cursor is at the end of the last one."""
    return ERASE_LINE + (LINE_UP + ERASE_LINE) * (len(lines) - 1)


def _num_columns(terminal: TextIO) -> int:
    """Return the width of the terminal, which the user may change."""
    with contextlib.suppress(OSError):
        return os.get_terminal_size(terminal.fileno()).columns or DEFAULT_COLUMNS
    return DEFAULT_COLUMNS
