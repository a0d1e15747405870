"""Processes that end with the benchmark, their cores, and their CPU time measured from outside."""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_INTERVAL_S = 0.005
POLL_S = 0.05
STOP_TIMEOUT_S = 3.0
LOG_TAIL_CHARS = 2000
SERVING_WORDS = "worker.server: serving"
"""What a worker prints when it serves."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks the benchmark to end."""
PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_LIBC = ctypes.CDLL(None)


class Checkout(NamedTuple):
    """A tree of this repository, and the interpreter that runs it."""

    root: Path
    python: str


THIS_CHECKOUT = Checkout(ROOT, sys.executable)


class CpuCurve(NamedTuple):
    """CPU time of one process over its life."""

    times_s: list[float]
    """When it was read, seconds of the system clock."""
    cpu_s: list[float]
    """User and system time of all its threads, at that moment."""

    def between(self, begin_s: float, end_s: float) -> float:
        """Take the CPU time spent in a window, in seconds, interpolated between readings."""
        at = np.interp([begin_s, end_s], self.times_s, self.cpu_s)
        return float(at[1] - at[0])


class Ended(NamedTuple):
    """A process that ran to its end."""

    exit_code: int
    cpu_s: float
    """User and system time of its whole life, from the kernel's accounting at its end."""
    curve: CpuCurve


class Processes:
    """Everything the benchmark started; leaving the block kills what is left, with its children."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Processes":
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every group: SIGTERM, a bounded wait, SIGKILL."""
        with _signals_held():
            for process in self._running:
                _signal_group(process, signal.SIGTERM)
            deadline_s = time.monotonic() + STOP_TIMEOUT_S
            for process in self._running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(deadline_s - time.monotonic(), 0.0))
            for process in self._running:
                _signal_group(process, signal.SIGKILL)
                process.wait(STOP_TIMEOUT_S)

    def start(
        self,
        module_argv: list[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        piped: bool = False,
        checkout: Checkout = THIS_CHECKOUT,
    ) -> subprocess.Popen[bytes]:
        """Start `python -m <module> <flags>` in a new session; its output goes to `log`.

        Args:
            module_argv: Module and flags.
            log: Gets both outputs.
            environment: Variables beside those of this process.
            piped: Its standard input and output are pipes of the Popen; only its errors go to `log`.
            checkout: The tree whose module is run.
        """
        parent = os.getpid()
        with log.open("wb") as out, _signals_held() as mask:
            process = subprocess.Popen(
                [checkout.python, "-m", *module_argv],
                cwd=checkout.root,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else out,
                stderr=out,
                # LoadGen writes the window of its test in local time.
                env={**os.environ, "TZ": "UTC", **(environment or {})},
                start_new_session=True,
                preexec_fn=lambda: _prepare(mask, parent),  # noqa: PLW1509 - this process has one thread
            )
            self._running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End one process with its group at once, as a lost node ends."""
        _signal_group(process, signal.SIGKILL)
        process.wait(STOP_TIMEOUT_S)
        self._running.remove(process)

    def run(self, module_argv: list[str], log: Path, timeout_s: float) -> Ended:
        """Run to the end, reading its CPU clock all along.

        Raises:
            RuntimeError: It did not end in time.
        """
        process = self.start(module_argv, log)
        deadline_s = time.monotonic() + timeout_s
        curve = CpuCurve([], [])
        while True:
            with contextlib.suppress(OSError):  # it has just ended
                cpu_s = read_cpu_s(process.pid)
                curve.times_s.append(time.time())
                curve.cpu_s.append(cpu_s)
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                _signal_group(process, signal.SIGKILL)
                self._running.remove(process)
                return Ended(process.returncode, usage.ru_utime + usage.ru_stime, curve)
            if time.monotonic() > deadline_s:
                raise RuntimeError(
                    f"{' '.join(module_argv[:2])}: not done after {timeout_s:.0f} s: {tail(log)}"
                )
            time.sleep(SAMPLE_INTERVAL_S)


def argv_of(flags: Mapping[str, object]) -> list[str]:
    """Write flags and their values as a command line."""
    return [str(part) for flag in flags.items() for part in flag]


def wait_says(
    process: subprocess.Popen[bytes], log: Path, words: str, timeout_s: float, failure: str
) -> None:
    """Wait until a process has printed some words.

    Raises:
        RuntimeError: `failure`: it ended, or does not print them in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while words not in log.read_text(encoding="utf-8", errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"{failure} within {timeout_s:g} s: {tail(log)}")
        time.sleep(POLL_S)


def read_cpu_s(pid: int) -> float:
    """Read the CPU clock of a process: user and system time of all its threads, in seconds.

    Source: clock_getcpuclockid(3); the clock id is MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel's
    include/linux/posix-timers.h.

    Raises:
        OSError: No such process.
    """
    return time.clock_gettime((~pid << 3) | 2)


def free_port() -> int:
    """Find a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_listening(process: subprocess.Popen[bytes], port: int, log: Path, timeout_s: float) -> None:
    """Wait until a process listens.

    Raises:
        RuntimeError: It ended, or does not listen in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"nothing listens on port {port}: {tail(log)}") from error
        time.sleep(0.05)


def tail(log: Path) -> str:
    """Read the end of a log."""
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARS:]


@contextlib.contextmanager
def _signals_held() -> Iterator[set[int]]:
    """Let no signal interrupt a block; yields the mask that was there before.

    An exception that a signal raises would be lost inside fork's hooks, and a process with it.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield {int(signum) for signum in mask}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _prepare(mask: set[int], parent: int) -> None:
    """Before exec: take signals, and have the kernel kill this process when the benchmark is killed."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before the kernel knew
        os._exit(1)


def _signal_group(process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


def split_cores() -> tuple[set[int], set[int]]:
    """Divide the cores that this process may use: one for the fleet, the others for the coordinator.

    Returns:
        Both; the same core twice on a machine with one.
    """
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others or [first])


@contextlib.contextmanager
def started_on(cores: set[int]) -> Iterator[None]:
    """Have processes that are started in a block run on these cores; this thread waits there too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
