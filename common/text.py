"""The table that a command ends with."""

import os
import sys


def print_table(text: str) -> OSError | None:
    """Print it; returns why it could not be: nobody reads any more, or a disk is full."""
    try:
        print(text, flush=True)  # noqa: T201 - the final result
    except OSError as error:
        # What is left in the buffer must not fail once more at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None
