"""Ends a command: bad input is one line and exit code 2, a signal one line and its own exit code."""

import sys
from collections.abc import Callable

from common.signals import Interrupted
from common.standard_streams import open_standard_streams
from common.text import one_line

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes; INTERRUPTED is that of SIGINT before a program handles signals."""


def run_command(name: str, command: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run a command and return its exit code.

    Args:
        name: Command in messages, as the user types it.
        command: Takes its arguments; raises ValueError for bad input, OSError for a file that it cannot use.
        argv: Its arguments.
    """
    open_standard_streams()
    try:
        return command(argv)
    except (ValueError, OSError) as error:
        return end_command(name, error, BAD_INPUT)
    except Interrupted as interruption:
        return end_command(name, f"interrupted by {interruption}", interruption.exit_code)


def end_command(name: str, reason: object, code: int) -> int:
    """Write the reason in one line to stderr; returns the exit code."""
    sys.stderr.write(f"{name}: {one_line(str(reason))}\n")
    return code
