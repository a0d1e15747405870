"""Writes the report of a run in a process of its own, bounded in time and memory; a failure is a warning."""

import logging
import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.child_process import child_command, child_environment
from common.signals import SIGNAL_POLL_S, Interrupted, Interrupts
from common.text import printable
from sut.log_files import REPORT

logger = logging.getLogger(__name__)

_MODULE = "sut.results.report"
TIMEOUT_S = 120.0
"""A run of 541,200 requests needs seconds; disk and processor may be busy."""
# Address space: 541,200 requests need 0.5 GiB.
_MEMORY_BYTES = 8 << 30
_MAX_LINE_LEN = 500
_KILL_TIMEOUT_S = 5.0


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
        with _process(run_dir) as process:
            code = _wait(process, timeout_s)
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


@contextmanager
def _process(run_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the process; it does not outlive the block."""
    # Threads of a numerical library would each reserve address space.
    environment = {**child_environment(os.environ), "OPENBLAS_NUM_THREADS": "1"}
    argv = [os.fspath(run_dir.absolute()), "--overwrite"]
    process = subprocess.Popen(
        child_command(_MODULE, argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )
    try:
        with suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        yield process
    finally:
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_TIMEOUT_S)
        if process.stderr is not None:
            process.stderr.close()


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """Return the exit code; None if the process has not ended in time."""
    deadline_s = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline_s:
        with suppress(subprocess.TimeoutExpired):
            process.wait(SIGNAL_POLL_S)
    return process.poll()


def _last_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    # The process has ended: what it wrote fits the pipe.
    lines = process.stderr.read(1 << 16).decode(errors="replace").splitlines() or [""]
    return printable(lines[-1], _MAX_LINE_LEN)
