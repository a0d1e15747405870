"""Lines at the bottom of a terminal that are drawn again and again, with log lines above them."""

import contextlib
import logging
import os
import re
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self, TextIO

TO_FIRST_COLUMN = "\r"
ERASE_TO_RIGHT = "\x1b[K"
ERASE_BELOW = "\x1b[J"
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class TerminalSize(NamedTuple):
    """Size of a terminal in characters."""

    columns: int
    lines: int


DEFAULT_SIZE = TerminalSize(80, 24)


class StatusLine:
    """Owns the last lines of a terminal within a `with` block, and erases them at the end.

    Handlers of the root logger that write to the same terminal write through this object meanwhile.
    """

    def __init__(self, terminal: TextIO) -> None:
        """Prepare; nothing is written yet."""
        self._terminal = terminal
        self._lines: list[str] = []
        # Log lines come from any thread.
        self._lock = threading.Lock()
        self._ended = False
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
        self.show([])
        with self._lock:
            self._ended = True

    def size(self) -> TerminalSize:
        """Return the size of the terminal, which the user may change."""
        with contextlib.suppress(OSError):
            found = os.get_terminal_size(self._terminal.fileno())
            return TerminalSize(found.columns or DEFAULT_SIZE.columns, found.lines or DEFAULT_SIZE.lines)
        return DEFAULT_SIZE

    def show(self, lines: Sequence[str]) -> None:
        """Replace the status by other lines, all narrower than the terminal; nothing after the block."""
        with self._lock:
            if self._ended:
                return
            start = self._to_first_line()
            self._lines = list(lines)
            # Each line is overwritten and not erased first: the terminal would flicker.
            body = "\n".join(line + ERASE_TO_RIGHT for line in self._lines)
            self._put(start + body + ERASE_BELOW)

    def write(self, text: str) -> int:
        """Write whole lines above the status.

        Thread: any.
        """
        with self._lock:
            self._put(self._to_first_line() + ERASE_BELOW + text + "\n".join(self._lines))
        return len(text)

    def flush(self) -> None:
        """Do nothing: every write is flushed."""

    def _to_first_line(self) -> str:
        """Return what moves the cursor from the end of the status to its begin.

        A terminal that has become narrower since has wrapped the lines.
        """
        if not self._lines:
            return TO_FIRST_COLUMN
        columns = self.size().columns
        num_rows = sum(max(-(-len(_STYLE.sub("", line)) // columns), 1) for line in self._lines)
        return TO_FIRST_COLUMN + (f"\x1b[{num_rows - 1}A" if num_rows > 1 else "")

    def _put(self, text: str) -> None:
        """Write; a closed terminal must not end the run."""
        with contextlib.suppress(OSError):
            self._terminal.write(text)
            self._terminal.flush()
