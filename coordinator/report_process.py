"""Writes the report of a run in a process of its own, bounded in time and memory; a failure is a warning."""

import logging
import os
import resource
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

from common.child_process import child_process, wait_for_exit
from common.signals import Interrupted, Interrupts
from common.text import printable
from sut.log_files import REPORT

logger = logging.getLogger(__name__)

_MODULE = "sut.results.report"
TIMEOUT_S = 120.0
"""A run of 541,200 requests needs seconds; disk and processor may be busy."""
# Address space: 541,200 requests need 0.5 GiB.
_MEMORY_BYTES = 8 << 30
# Threads of a numerical library would each reserve address space.
_VARIABLES = {"OPENBLAS_NUM_THREADS": "1"}
_MAX_LINE_LEN = 500


def report_run(run_dir: Path, interrupts: Interrupts) -> None:
    """Write the report of a run whose verdict is stored; a signal ends the report, not the run.

    Thread: main.
    """
    try:
        interrupts.resume()
        write_report(run_dir, TIMEOUT_S)
    except Interrupted as interruption:
        logger.warning("no %s: interrupted by %s; `%s` writes it", REPORT, interruption, _command(run_dir))
    finally:
        interrupts.hold()


def write_report(run_dir: Path, timeout_s: float) -> None:
    """Write the report from the files of the run; does not outlast the timeout.

    Thread: main.
    """
    try:
        argv = [os.fspath(run_dir.absolute()), "--overwrite"]
        with child_process(_MODULE, argv, _VARIABLES, stdout=DEVNULL, stderr=PIPE) as process:
            with suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
            code = wait_for_exit(process, timeout_s)
            reason = _last_line(process) if code else ""
    except OSError as error:
        code, reason = -1, str(error)
    if code == 0:
        logger.info("report: %s", run_dir / REPORT)
        return
    told = f"not written within {timeout_s:g} s" if code is None else f"exit code {code}: {reason}"
    logger.warning("no %s: %s; `%s` writes it", REPORT, told, _command(run_dir))


def _command(run_dir: Path) -> str:
    return f"tokenfleet report {run_dir}"


def _last_line(process: Popen[bytes]) -> str:
    assert process.stderr is not None
    # The process has ended: what it wrote fits the pipe.
    lines = process.stderr.read(1 << 16).decode(errors="replace").splitlines() or [""]
    return printable(lines[-1], _MAX_LINE_LEN)
