"""Child processes that end with the benchmark, their CPU cores, and their CPU time read from outside."""

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

from common.signals import signals_held
from worker.machine.nvml import process_tree

ROOT = Path(__file__).resolve().parent.parent
SAMPLE_INTERVAL_S = 0.005
POLL_S = 0.05
STOP_TIMEOUT_S = 3.0
LOG_TAIL_CHARS = 2000
SERVING_WORDS = "worker.server: serving"
"""Text that a worker logs once it is SERVING."""
PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_LIBC = ctypes.CDLL(None)


class Checkout(NamedTuple):
    """A checkout of this repository and the Python interpreter that runs it."""

    root: Path
    python: str


THIS_CHECKOUT = Checkout(ROOT, sys.executable)


class CpuCurve(NamedTuple):
    """CPU time of one process, sampled over its life."""

    times_s: list[float]
    """Times of the readings, in seconds of the system clock."""
    cpu_s: list[float]
    """User and system time of all threads at each reading."""

    def between(self, begin_s: float, end_s: float) -> float:
        """Return the CPU time spent between two times, in seconds, interpolated between readings."""
        at = np.interp([begin_s, end_s], self.times_s, self.cpu_s)
        return float(at[1] - at[0])


class Ended(NamedTuple):
    """A process that has ended."""

    exit_code: int
    cpu_s: float
    """User and system time of its whole life, from the kernel's accounting."""
    peak_mib: float
    """Highest resident memory of its whole life, from the same."""
    curve: CpuCurve


class Processes:
    """All processes that the benchmark starts; leaving the block kills the remaining ones."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Processes":
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process group: SIGTERM, a bounded wait, SIGKILL."""
        with signals_held():
            for process in self._running:
                _signal_group(process, signal.SIGTERM)
            deadline_s = time.monotonic() + STOP_TIMEOUT_S
            for process in self._running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(deadline_s - time.monotonic(), 0.0))
            for process in [*self._running]:
                self.kill(process)

    def start(
        self,
        module_argv: list[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        piped: bool = False,
        checkout: Checkout = THIS_CHECKOUT,
    ) -> subprocess.Popen[bytes]:
        """Start `python -m <module> <flags>` in a new session; write its output to `log`.

        Args:
            module_argv: Module and flags.
            log: File for standard output and standard error.
            environment: Environment variables added to those of this process.
            piped: Make standard input and output pipes of the Popen; only standard error goes to `log`.
            checkout: Checkout whose module runs.
        """
        parent = os.getpid()
        with log.open("wb") as out, signals_held() as mask:
            process = subprocess.Popen(
                [checkout.python, "-m", *module_argv],
                cwd=checkout.root,
                stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else out,
                stderr=out,
                # LoadGen logs the begin and end of its test in local time.
                env={**os.environ, "TZ": "UTC", **(environment or {})},
                start_new_session=True,
                preexec_fn=lambda: _prepare(mask, parent),  # noqa: PLW1509 - this process has one thread
            )
            self._running.append(process)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill one process with its group at once, like a lost node."""
        _signal_group(process, signal.SIGKILL)
        # The kernel may hold a process longer, for example while it frees a GPU's memory.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        for pipe in filter(None, (process.stdin, process.stdout)):
            with contextlib.suppress(BrokenPipeError):  # text that the process has not read
                pipe.close()
        self._running.remove(process)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """End one process with its group: SIGTERM, a bounded wait, SIGKILL."""
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        self.kill(process)

    def run(
        self, module_argv: list[str], log: Path, timeout_s: float, *, checkout: Checkout = THIS_CHECKOUT
    ) -> Ended:
        """Run a module to its end and sample its CPU time meanwhile.

        Raises:
            RuntimeError: The process did not end within `timeout_s`; it has been ended.
        """
        process = self.start(module_argv, log, checkout=checkout)
        deadline_s = time.monotonic() + timeout_s
        curve = CpuCurve([], [])
        while True:
            with contextlib.suppress(OSError):  # the process has just ended
                cpu_s = read_cpu_s(process.pid)
                curve.times_s.append(time.time())
                curve.cpu_s.append(cpu_s)
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                _signal_group(process, signal.SIGKILL)
                self._running.remove(process)
                cpu_s = usage.ru_utime + usage.ru_stime
                return Ended(process.returncode, cpu_s, usage.ru_maxrss / 1024, curve)
            if time.monotonic() > deadline_s:
                self.stop(process)
                raise RuntimeError(
                    f"{' '.join(module_argv[:2])}: not done after {timeout_s:.0f} s: {tail(log)}"
                )
            time.sleep(SAMPLE_INTERVAL_S)


def argv_of(flags: Mapping[str, object]) -> list[str]:
    """Convert a mapping of flags to values into command-line arguments."""
    return [str(part) for flag in flags.items() for part in flag]


def wait_says(
    process: subprocess.Popen[bytes], log: Path, words: str, timeout_s: float, failure: str
) -> None:
    """Wait until a process has printed a text.

    Raises:
        RuntimeError: The process ended or did not print the text in time; the message starts with `failure`.
    """
    deadline_s = time.monotonic() + timeout_s
    while words not in log.read_text(encoding="utf-8", errors="replace"):
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"{failure} within {timeout_s:g} s: {tail(log)}")
        time.sleep(POLL_S)


def read_cpu_s(pid: int) -> float:
    """Return the CPU time of a process: user and system time of all its threads, in seconds.

    Source: clock_getcpuclockid(3); the clock id is MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED) of the kernel's
    include/linux/posix-timers.h.

    Raises:
        OSError: The process does not exist.
    """
    return time.clock_gettime((~pid << 3) | 2)


class TreeCpu(NamedTuple):
    """CPU time of a process, and of all processes below it."""

    front_s: float
    below_s: float
    """Also of processes that have ended, if their parent has waited for them."""


def read_tree_cpu(pid: int) -> TreeCpu:
    """Read the CPU time of a process and of those below it.

    The time of a process that ends moves to its parent's time of children, so differences of two readings
    miss no process, whether it began or ended in between.

    Raises:
        OSError: The process does not exist.
    """
    front_s = read_cpu_s(pid)
    below_s = _waited_for_s(pid)
    for other in process_tree(pid) - {pid}:
        with contextlib.suppress(OSError):  # it has just ended
            below_s += read_cpu_s(other) + _waited_for_s(other)
    return TreeCpu(front_s, below_s)


def _waited_for_s(pid: int) -> float:
    """Return the CPU time of the ended children of a process: cutime and cstime of proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def wait_listening(process: subprocess.Popen[bytes], port: int, log: Path, timeout_s: float) -> None:
    """Wait until a process listens on a port.

    Raises:
        RuntimeError: The process ended or does not listen in time.
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
    """Return the last lines of a log."""
    return log.read_text(encoding="utf-8", errors="replace")[-LOG_TAIL_CHARS:]


def _prepare(mask: set[int], parent: int) -> None:
    """Run in the child before exec: unblock signals and have the kernel kill it when the benchmark dies."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before prctl took effect
        os._exit(1)


def _signal_group(process: subprocess.Popen[bytes], signum: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signum)


def split_cores() -> tuple[set[int], set[int]]:
    """Split the available CPU cores: one for the fleet, the others for the coordinator.

    Returns:
        Both sets; on a one-core machine both hold the same core.
    """
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others or [first])


@contextlib.contextmanager
def started_on(cores: set[int]) -> Iterator[None]:
    """Run processes started inside the block on these cores; this thread is pinned there too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
