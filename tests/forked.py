"""Run a command's main in a process forked from one that has done the imports."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

# Programs that tests call, and modules that these import when they run.
PRELOAD = [
    "bench.peers.__main__",
    "bench.fleet.simulated",
    "coordinator.__main__",
    "tokenfleet.local_run",
    "tokenfleet.qualify.first_contact",
    "worker.__main__",
    "worker.engines.scripted.counting",
]


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    stdout: str
    stderr: str


def end_of(
    main: Callable[[list[str]], int], argv: Sequence[str], directory: Path, timeout_s: float = 30.0
) -> Ended:
    """Run a main as its module does; the test fails if it does not end in time.

    Args:
        main: Takes the flags and returns the exit code; runs in this process's environment variables.
        argv: The flags.
        directory: Gets `stdout` and `stderr`.
        timeout_s: How long it may run.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_be, args=(main, list(argv), directory, dict(os.environ)))
    process.start()
    try:
        process.join(timeout_s)
        stdout, stderr = ((directory / name).read_text() for name in ("stdout", "stderr"))
        assert process.exitcode is not None, f"runs for {timeout_s:g} s: {stderr}"
    finally:
        process.kill()
    return Ended(process.exitcode, stdout, stderr)


def completed(
    main: Callable[[list[str]], int], argv: Sequence[str], timeout_s: float = 60.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a main as `end_of` does, with further environment variables; a real start costs a second of CPU."""
    with tempfile.TemporaryDirectory() as directory, mock.patch.dict(os.environ, variables):
        ended = end_of(main, argv, Path(directory), timeout_s)
    return subprocess.CompletedProcess(list(argv), *ended)


def _be(
    main: Callable[[list[str]], int], argv: list[str], directory: Path, environment: dict[str, str]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        with (directory / name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    sys.exit(main(argv))
