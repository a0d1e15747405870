"""Text for users: tables on stdout, and text received from other processes."""

import os
import sys


def printable(text: str, max_len: int) -> str:
    """Truncate text from another process to `max_len` characters; replace unprintable ones by `?`."""
    return "".join(char if char.isprintable() else "?" for char in text[:max_len])


def one_line(text: str) -> str:
    """Replace unprintable characters by `?`, line ends and a terminal's commands among them."""
    return printable(text, len(text))


def print_table(text: str) -> OSError | None:
    """Print a table; returns the error if that fails, e.g. a closed pipe or a full disk.

    Names in it, such as those of directories, may hold a terminal's commands: they are replaced by `?`.
    """
    try:
        print("\n".join(map(one_line, text.split("\n"))), flush=True)  # noqa: T201 - the final result
    except OSError as error:
        # The interpreter flushes stdout again at exit, which must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None
