"""Starts this project's programs as child processes: command line, environment, end."""

import math
import os
import site
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from common.signals import SIGNAL_POLL_S

PACKAGE_ROOT = Path(__file__).resolve().parents[1]
"""The directory that contains this project's packages: a checkout or site-packages."""
# A killed process that does not end is in the kernel, e.g. waiting for a network disk.
_KILL_TIMEOUT_S = 5.0


def child_command(module: str, argv: Iterable[str]) -> list[str]:
    """Compose the command line of one of this project's programs.

    -P keeps the current directory off sys.path. Otherwise Python would import a worker.py or a folder sut/
    there instead of this project's packages.
    """
    return [sys.executable, "-P", "-m", module, *argv]


def child_environment(
    environment: Mapping[str, str], site_dirs: Iterable[str] | None = None
) -> dict[str, str]:
    """Compose the environment of a child that imports the same copy of this project's packages.

    Args:
        environment: The environment to start from.
        site_dirs: The interpreter's site directories; default: this interpreter's.
    """
    if site_dirs is None:
        site_dirs = (*site.getsitepackages(), site.getusersitepackages())
    # Drop relative and empty entries: they refer to the current directory.
    path = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(entry)]
    # Do not add site directories: ahead of the standard library they would shadow parts of it.
    if str(PACKAGE_ROOT) not in site_dirs:
        path.insert(0, str(PACKAGE_ROOT))
    # PYTHONSAFEPATH applies -P to the interpreters that the child starts, such as vLLM's processes.
    return {**environment, "PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}


@contextmanager
def child_process(
    module: str,
    argv: Iterable[str],
    variables: Mapping[str, str],
    stop_timeout_s: float = 0.0,
    stdout: int | None = None,
    stderr: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start one of this project's programs without standard input; it does not outlive the block.

    Args:
        module: Its name.
        argv: Its arguments.
        variables: Environment variables, besides those of child_environment.
        stop_timeout_s: Time to end after SIGTERM; 0: the program is killed at once.
        stdout: As for subprocess.Popen.
        stderr: As for subprocess.Popen.
    """
    process = subprocess.Popen(
        child_command(module, argv),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env={**child_environment(os.environ), **variables},
    )
    try:
        yield process
    finally:
        if stop_timeout_s:
            process.terminate()
            _wait(process, stop_timeout_s)
        process.kill()
        _wait(process, _KILL_TIMEOUT_S)
        if process.stderr is not None:
            process.stderr.close()


def wait_for_exit(process: subprocess.Popen[bytes], timeout_s: float = math.inf) -> int | None:
    """Return the exit code; None if the process has not ended in time. A signal interrupts the wait."""
    deadline_s = time.monotonic() + timeout_s
    while process.poll() is None and (left_s := deadline_s - time.monotonic()) > 0:
        _wait(process, min(left_s, SIGNAL_POLL_S))
    return process.poll()


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout_s)
