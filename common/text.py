"""Text for people: the table that a command prints last, and words of other processes."""

import os
import sys


def printable(text: str, max_len: int) -> str:
    """Cut a text of another process to max_len characters and replace unprintable ones by `?`."""
    return "".join(char if char.isprintable() else "?" for char in text[:max_len])


def print_table(text: str) -> OSError | None:
    """Print a table; returns the error if it cannot be printed, e.g. a closed pipe or a full disk."""
    try:
        print(text, flush=True)  # noqa: T201 - the final result
    except OSError as error:
        # The interpreter flushes the buffer again at its end: that must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None
