"""Text for users: tables on stdout, and text received from other processes."""

import os
import sys


def printable(text: str, max_len: int) -> str:
    """Truncate text from another process to `max_len` characters; replace unprintable ones by `?`."""
    return "".join(char if char.isprintable() else "?" for char in text[:max_len])


def print_table(text: str) -> OSError | None:
    """Print a table; returns the error if that fails, e.g. a closed pipe or a full disk."""
    try:
        print(text, flush=True)  # noqa: T201 - the final result
    except OSError as error:
        # The interpreter flushes stdout again at exit, which must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None
