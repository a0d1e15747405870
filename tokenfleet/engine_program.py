"""Runs a program that uses an engine, and maps its errors to one line and an exit code."""

from collections.abc import Callable

from common.command_exit import BAD_INPUT, FAILED, INTERRUPTED, end_command
from common.signals import Interrupted
from worker.config import BadInput
from worker.engine_protocol import EngineDead


def run_engine_program(name: str, program: Callable[[], None]) -> int:
    """Run a program; returns its exit code and reports an error on stderr.

    Args:
        name: Program in messages, as the user types it.
        program: Raises ValueError or BadInput for bad input, EngineDead if the engine failed.
    """
    try:
        program()
    except EngineDead as error:
        return end_command(name, f"engine died: {error}", FAILED)
    except (BadInput, ValueError) as error:
        return end_command(name, error, BAD_INPUT)
    except KeyboardInterrupt:
        return end_command(name, "interrupted", INTERRUPTED)
    except Interrupted as interruption:
        return end_command(name, f"interrupted by {interruption}", interruption.exit_code)
    return 0
