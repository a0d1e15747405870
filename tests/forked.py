"""Run a command's main in a process forked from one that has done the imports.

A real start costs half a second of CPU.
"""

import contextlib
import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
# Programs that tests call, and modules that these import when they run.
PRELOAD = [
    "bench.peers.__main__",
    "bench.fleet.simulated",
    "coordinator.__main__",
    "tokenfleet.local_run",
    "tokenfleet.qualify.first_contact",
    "worker.__main__",
    "worker.engines.scripted.counting",
    "tests.frozen_imports",
]


Main = Callable[[list[str]], int]
"""Takes the flags and returns the exit code."""


class ForkedProcess:
    """A main that runs, with the methods of subprocess.Popen that tests use; leads a session of its own."""

    def __init__(
        self,
        main: Main,
        argv: Sequence[str],
        log: Path,
        cwd: Path = ROOT,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Start it.

        Args:
            main: What it runs.
            argv: The flags.
            log: Gets both its outputs, after what is there.
            cwd: Where it runs.
            environment: Its environment variables.
        """
        self._argv = list(argv)
        log.touch()
        words = (main, self._argv, log, cwd, dict(environment))
        self._process = _fork_server().Process(target=_lead, args=words)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        # Until then the signals to its group reach nobody.
        deadline_s = time.monotonic() + 60
        while not self._leads() and self.poll() is None:
            assert time.monotonic() < deadline_s, f"process {self.pid} leads no session after 60 s"
            time.sleep(0.001)

    def _leads(self) -> bool:
        try:
            return os.getsid(self.pid) == self.pid
        except ProcessLookupError:
            return False

    @property
    def returncode(self) -> int | None:
        """The exit code, or minus the signal that ended it; None: it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        self._process.join(timeout)
        if (code := self.returncode) is None:
            raise subprocess.TimeoutExpired(self._argv, timeout or 0.0)
        return code

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def main_of(source: str) -> Main:
    """Make a main of a program's text, which finds its flags in sys.argv[1:]."""
    return functools.partial(_execute, source)


def main_of_command(words: Sequence[str]) -> Main:
    """Make a main of the words behind `python`: -m, a module and its arguments, or a script of this tree."""
    return functools.partial(_run, tuple(words))


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    stdout: str
    stderr: str


def end_of(main: Main, argv: Sequence[str], directory: Path, timeout_s: float = 240.0) -> Ended:
    """Run a main as its module does; the test fails if it does not end in time.

    Args:
        main: What to run, in this process's environment variables.
        argv: The flags.
        directory: Gets `stdout` and `stderr`.
        timeout_s: How long it may run.
    """
    process = _fork_server().Process(target=_be, args=(main, list(argv), directory, dict(os.environ)))
    process.start()
    try:
        process.join(timeout_s)
        stdout, stderr = ((directory / name).read_text() for name in ("stdout", "stderr"))
        assert process.exitcode is not None, f"runs for {timeout_s:g} s: {stderr}"
    finally:
        process.kill()
    return Ended(process.exitcode, stdout, stderr)


def completed(
    main: Main, argv: Sequence[str], timeout_s: float = 240.0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a main as `end_of` does, with further environment variables."""
    with tempfile.TemporaryDirectory() as directory, mock.patch.dict(os.environ, variables):
        ended = end_of(main, argv, Path(directory), timeout_s)
    return subprocess.CompletedProcess(list(argv), *ended)


def completed_command(
    command: Sequence[str | Path], timeout_s: float = 240.0, cwd: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Start a command and wait for its end, where no main can be forked or the start itself is tested.

    Args:
        command: The words.
        timeout_s: How long it may run; after that the test fails.
        cwd: Where it runs.
        variables: Further environment variables.
    """
    return subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def _fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def _be(main: Main, argv: list[str], directory: Path, environment: dict[str, str]) -> None:
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        with (directory / name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    _call(main, argv, environment)


def _lead(main: Main, argv: list[str], log: Path, cwd: Path, environment: dict[str, str]) -> None:
    os.setsid()
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(cwd)
    _call(main, argv, environment)


def _execute(source: str, argv: list[str]) -> int:
    sys.argv = ["-c", *argv]
    exec(compile(source, "<test>", "exec"), {"__name__": "__main__"})
    return 0


def _run(words: tuple[str, ...], argv: list[str]) -> int:
    if words[0] == "-m":
        sys.argv = ["-m", *words[2:], *argv]
        # It warns that the module has been imported before.
        with warnings.catch_warnings(action="ignore"):
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [*words, *argv]
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    return 0


def _call(main: Main, argv: list[str], environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(main(argv))
