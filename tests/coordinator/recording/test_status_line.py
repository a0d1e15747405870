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

import pyte
import pytest

from coordinator.recording.live_screen import Screen
from coordinator.recording.live_view import view_terminal
from coordinator.recording.run_snapshot import RunPhase, Snapshot
from coordinator.recording.status_line import StatusLine
from tests.coordinator.recording.test_live_screen import RUN, fleet_of

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


@pytest.mark.parametrize(
    "sizes",
    [[(1, 1)], [(20, 5)], [(80, 24), (20, 5), (1, 1), (3, 40), (80, 24)]],
    ids=["1x1", "20x5", "resized"],
)
def test_the_view_is_whole_on_a_terminal_of_any_size_and_after_each_change(
    terminal: tuple[int, TextIO], sizes: list[tuple[int, int]]
) -> None:
    """Drawn twice at each size: the screen then has the lines of the view one below the other, no others."""
    reader, out = terminal
    screen = pyte.Screen(*sizes[0])
    stream = pyte.Stream(screen)
    with StatusLine(out) as line:
        for columns, num_lines in sizes:
            screen.resize(num_lines, columns)
            fcntl.ioctl(out, termios.TIOCSWINSZ, struct.pack("HHHH", num_lines, columns, 0, 0))
            for phase_s in (1.0, 2.0):
                snapshot = Snapshot("server performance", RunPhase.TEST, phase_s, fleet_of(72), RUN)
                drawn = Screen().lines(snapshot, columns - 1, num_lines - 1)
                line.show(drawn)
            stream.feed(read(reader))
            expected = [re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip() for text in drawn]
            shown = [text.rstrip() for text in screen.display]
            assert [text for text in expected if text] == [text for text in shown if text]
    stream.feed(read(reader))
    assert "" == "".join(screen.display).strip()


@pytest.mark.parametrize(
    ("term", "is_wanted", "is_drawn"),
    [("xterm", True, True), ("dumb", True, False), ("unknown", True, False), ("xterm", False, False)],
)
def test_only_a_terminal_that_moves_its_cursor_has_a_view(
    terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch, term: str, is_wanted: bool, is_drawn: bool
) -> None:
    """Elsewhere a run prints plain lines."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stderr", terminal[1])
    assert (terminal[1] if is_drawn else None) is view_terminal(is_wanted=is_wanted)


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
