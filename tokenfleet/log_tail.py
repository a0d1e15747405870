"""The last lines of a program's log, for a message of one line or a few."""

import os
from pathlib import Path

from common.text import printable

MAX_LINE_LEN = 300
_TAIL_BYTES = 1 << 16


def last_line(log: Path) -> str:
    """Return the last line of a log."""
    return (last_lines(log, 1) or ["no output"])[-1]


def last_lines(log: Path, max_lines: int) -> list[str]:
    """Return the last lines of a log, without empty ones at its end."""
    with log.open("rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - _TAIL_BYTES, 0))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return [printable(line, MAX_LINE_LEN) for line in lines[-max_lines:]]
