"""Runs a program that makes several runs, and maps its errors to one line and an exit code.

Such a program continues when it is started again: finished runs are kept.
"""

from collections.abc import Callable

from common.command_exit import BAD_INPUT, FAILED, end_command
from common.open_files import raise_open_file_limit
from common.signals import CLEAN_UP_S, Interrupted, Interrupts
from common.standard_streams import background_output


class ProgramStopped(Exception):
    """The program cannot continue; finished runs are kept for the next start."""

    def __init__(self, reason: str, code: int) -> None:
        """Compose the line and the exit code."""
        super().__init__(reason)
        self.code = code


def run_resumable(name: str, program: Callable[[list[str]], int], argv: list[str]) -> int:
    """Run a program; returns its exit code and reports an error on stderr.

    Output that nobody takes does not stop it. Output that could not be written makes exit code 0 a 1.

    Args:
        name: Program in messages, as the user types it.
        program: Takes its arguments; raises ValueError for bad input.
        argv: Its arguments.
    """
    raise_open_file_limit()
    interrupts = Interrupts(patience_s=CLEAN_UP_S)
    with background_output() as stdout:
        code = _run(name, program, argv, interrupts)
    if stdout.failure is not None:
        return code or end_command(name, f"stdout: {stdout.failure}", FAILED)
    return code


def _run(name: str, program: Callable[[list[str]], int], argv: list[str], interrupts: Interrupts) -> int:
    try:
        try:
            return program(argv)
        finally:
            # The program has ended: no later signal changes its exit code.
            interrupts.hold()
    except ValueError as error:
        return end_command(name, error, BAD_INPUT)
    except ProgramStopped as error:
        return end_command(name, error, error.code)
    except (OSError, TimeoutError) as error:
        return end_command(name, error, FAILED)
    except Interrupted as interruption:
        return end_command(name, f"interrupted by {interruption}", interruption.exit_code)
