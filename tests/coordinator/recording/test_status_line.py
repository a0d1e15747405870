"""The status line of a terminal: a pseudo-terminal shows what a person sees."""

import contextlib
import fcntl
import logging
import os
import pty
import re
import struct
import termios
from collections.abc import Iterator
from typing import TextIO

import pytest

from coordinator.recording.status_line import StatusLine

COLUMNS = 40


@pytest.fixture
def terminal() -> Iterator[tuple[int, TextIO]]:
    """Open a pseudo-terminal of 40 columns: the file descriptor to read from, and the file to write to."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    os.set_blocking(reader, False)
    with os.fdopen(writer, "w", encoding="utf-8") as out:
        yield reader, out
    os.close(reader)


def screen_of(written: str) -> list[str]:
    """Compute the lines on the screen: `ESC [ K` erases to the right, `ESC [ 1 A` moves up."""
    lines = [""] * 24
    row = column = last = 0
    for part in re.findall(r"\r|\n|\x1b\[K|\x1b\[1A|[^\r\n\x1b]", written):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, last = row + 1, max(last, row + 1)
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[K":
            lines[row] = lines[row][:column]
        else:
            lines[row] = lines[row][:column] + part + lines[row][column + 1 :]
            column += 1
    return lines[: row + 1] if not any(lines[row + 1 :]) else lines[: last + 1]


def read(reader: int) -> str:
    """Read all that was written so far."""
    chunks = []
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(reader, 65536):
            chunks.append(chunk)
    return b"".join(chunks).decode()


def test_log_lines_stand_above_the_bar(terminal: tuple[int, TextIO]) -> None:
    """Two log lines between two states of the bar have lines of their own, and the bar is the last line."""
    reader, out = terminal
    handler = logging.StreamHandler(out)
    logging.getLogger().addHandler(handler)
    try:
        with StatusLine(out) as line:
            line.show("a bar that is long")
            logging.getLogger("a").warning("first loss")
            logging.getLogger("b").warning("second loss")
            line.show("a bar")
            assert ["first loss", "second loss", "a bar"] == screen_of(read(reader))
    finally:
        logging.getLogger().removeHandler(handler)
    assert handler.stream is out


def test_no_bar_is_left_at_the_end(terminal: tuple[int, TextIO]) -> None:
    """After the block the next line begins where the bar was."""
    reader, out = terminal
    with StatusLine(out) as line:
        line.show("a bar")
    out.write("== the table\n")
    out.flush()
    assert ["== the table", ""] == screen_of(read(reader))


def test_a_status_beyond_the_width_is_wrapped_and_erased(terminal: tuple[int, TextIO]) -> None:
    """A status of 60 characters takes two lines; a log line and a short status leave nothing of it."""
    reader, out = terminal
    handler = logging.StreamHandler(out)
    logging.getLogger().addHandler(handler)
    try:
        with StatusLine(out) as line:
            line.show(f"{'x' * 30} {'y' * 29}")
            logging.getLogger("a").warning("a loss")
            text = read(reader)
            assert ["a loss", "x" * 30, "y" * 29] == screen_of(text)
            line.show("short")
            text += read(reader)
            assert ["a loss", "short"] == screen_of(text)
    finally:
        logging.getLogger().removeHandler(handler)


def test_handlers_of_other_files_are_left_alone(terminal: tuple[int, TextIO]) -> None:
    """A handler that writes to a file keeps it."""
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    stream = handler.stream
    try:
        with StatusLine(terminal[1]):
            assert handler.stream is stream
    finally:
        logging.getLogger().removeHandler(handler)
