"""Runs a program that uses an engine, and maps its errors to one line and an exit code."""

import sys
from collections.abc import Callable

from common.signals import Interrupted
from worker.config import BadInput
from worker.engine_protocol import EngineDead

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


def run_engine_program(name: str, program: Callable[[], None]) -> int:
    """Run a program; returns its exit code and reports an error on stderr.

    Args:
        name: Program in messages, as the user types it.
        program: Raises ValueError or BadInput for bad input, EngineDead if the engine failed.
    """
    try:
        program()
    except EngineDead as error:
        return _report(name, f"engine died: {error}", FAILED)
    except (BadInput, ValueError) as error:
        return _report(name, str(error), BAD_INPUT)
    except KeyboardInterrupt:
        return _report(name, "interrupted", INTERRUPTED)
    except Interrupted as interruption:
        return _report(name, f"interrupted by {interruption}", interruption.exit_code)
    return 0


def _report(name: str, text: str, code: int) -> int:
    sys.stderr.write(f"{name}: {text}\n")
    return code
