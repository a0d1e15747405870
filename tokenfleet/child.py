"""A child process that ends with this program."""

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import BinaryIO, Self

from common.signals import Interrupted, signals_held

# A worker drains for at most 30 s and then stops its engine.
STOP_TIMEOUT_S = 60.0
# A killed process that does not end is in the kernel, e.g. waiting for a network disk.
KILL_TIMEOUT_S = 5.0
# Source: prctl(2).
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ChildProcess:
    """A child process in its own process group; a context manager that ends it.

    The kernel sends SIGTERM to the child if this process dies first.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: BinaryIO | None = None,
        *,
        inherited_fds: Sequence[int] = (),
    ) -> None:
        """Start it.

        Args:
            command: Program and arguments.
            environment: The child's environment.
            output: File for stdout and stderr; None: this program's own.
            inherited_fds: Open files that the child keeps.
        """
        with signals_held() as mask:
            self._popen = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                pass_fds=inherited_fds,
                preexec_fn=functools.partial(_after_fork, mask),  # noqa: PLW1509 - takes no lock
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process by the signal that has interrupted the block, then by SIGTERM, then by SIGKILL."""
        if isinstance(error, Interrupted):
            self.send_signal(error.signum)
            self.wait(STOP_TIMEOUT_S)
        self.send_signal(signal.SIGTERM)
        self.wait(STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self.wait(KILL_TIMEOUT_S)

    def poll(self) -> int | None:
        """Return the exit code; None while the process runs."""
        return self._popen.poll()

    def send_signal(self, signum: int) -> None:
        """Send a signal to the process, not to its group; the process ends its own children."""
        if self._popen.poll() is None:
            self._popen.send_signal(signum)

    def wait(self, timeout_s: float) -> None:
        """Wait until the process has ended, for at most `timeout_s`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)


def _after_fork(mask: set[int]) -> None:
    """Restore the signal mask and request SIGTERM at the parent's death; runs in the child before exec."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
