"""The status line of a terminal: a pseudo-terminal shows what a person sees."""

import contextlib
import fcntl
import logging
import os
import pty
import struct
import termios
from collections.abc import Iterator
from typing import TextIO

import pyte
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
    """Return the lines on a terminal's screen, without the empty ones at its end."""
    screen = pyte.Screen(COLUMNS, 24)
    pyte.Stream(screen).feed(written)
    return "\n".join(line.rstrip() for line in screen.display).rstrip().split("\n")


def read(reader: int) -> str:
    """Read all that was written so far."""
    chunks = []
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(reader, 65536):
            chunks.append(chunk)
    return b"".join(chunks).decode()


def test_log_lines_stand_above_the_status(terminal: tuple[int, TextIO]) -> None:
    """Two log lines between two states stand above the status; nothing is left of the first state."""
    reader, out = terminal
    handler = logging.StreamHandler(out)
    logging.getLogger().addHandler(handler)
    try:
        with StatusLine(out) as line:
            line.show(["a status", "that is long"])
            logging.getLogger("a").warning("first loss")
            logging.getLogger("b").warning("second loss")
            line.show(["short"])
            assert ["first loss", "second loss", "short"] == screen_of(read(reader))
    finally:
        logging.getLogger().removeHandler(handler)
    assert handler.stream is out


def test_no_status_is_left_at_the_end(terminal: tuple[int, TextIO]) -> None:
    """After the block the next line begins where the status was, and a late thread draws nothing."""
    reader, out = terminal
    with StatusLine(out) as line:
        line.show(["a status", "of two lines"])
    line.show(["too late"])
    out.write("== the table\n")
    out.flush()
    assert ["== the table"] == screen_of(read(reader))


def test_a_status_is_erased_after_the_terminal_became_narrower(terminal: tuple[int, TextIO]) -> None:
    """A line of 30 characters on 20 columns takes two rows; escapes for colors take none."""
    reader, out = terminal
    with StatusLine(out) as line:
        line.show(["first", f"\x1b[31m{'x' * 30}\x1b[0m"])
        fcntl.ioctl(out, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
        read(reader)
        line.write("a loss\n")
        # Three rows: up by two.
        assert read(reader).startswith("\r\x1b[2A\x1b[Ja loss")
        assert (20, 24) == line.size()


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
