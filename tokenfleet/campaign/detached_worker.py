"""A worker daemon on this machine that outlives a campaign which is killed, and is found by the next one."""

import contextlib
import os
import random
import select
import signal
import subprocess
import time
from pathlib import Path

from common.child_process import child_command, child_environment
from tokenfleet.campaign.campaign_state import LocalProcess
from tokenfleet.log_tail import last_line
from worker.node.ports import steady_port

# A worker drains for at most 30 s and then stops its engine.
STOP_TIMEOUT_S = 60.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class DetachedWorker:
    """One process; it is started by this program or was started by an earlier one."""

    def __init__(
        self, process: LocalProcess, log: Path, pid_fd: int, child: subprocess.Popen[bytes] | None
    ) -> None:
        """Take a process that runs.

        Args:
            process: Its number and flags.
            log: File of its output.
            pid_fd: Refers to the process; owned by this object.
            child: The same process if this program has started it.
        """
        self.process = process
        self._log = log
        self._pid_fd = pid_fd
        self._child = child

    @classmethod
    def start(cls, argv: tuple[str, ...], commit: str, log: Path, port: int | None) -> "DetachedWorker":
        """Start a worker on a loopback port.

        Args:
            argv: Flags of the worker, without host and port.
            commit: Of the source tree.
            log: File for its output, which is appended.
            port: Where it listens; None: choose a port.

        Raises:
            OSError: The log cannot be written.
        """
        chosen = steady_port(random.Random(), num_ports(argv)) if port is None else port
        words = [*argv, "--host=127.0.0.1", f"--port={chosen}"]
        with log.open("ab") as output:
            child = subprocess.Popen(
                child_command("worker", words),
                env=child_environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        process = LocalProcess(
            pid=child.pid,
            start_ticks=start_ticks(child.pid) or 0,
            boot_id=_BOOT_ID.read_text("ascii").strip(),
            port=chosen,
            argv=argv,
            commit=commit,
        )
        return cls(process, log, os.pidfd_open(child.pid), child)

    @classmethod
    def adopt(cls, process: LocalProcess, log: Path) -> "DetachedWorker | None":
        """Take over the worker of an earlier campaign; None if it does not run any more."""
        if process.boot_id != _BOOT_ID.read_text("ascii").strip():
            return None
        try:
            pid_fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return None
        if start_ticks(process.pid) != process.start_ticks:
            os.close(pid_fd)
            return None
        return cls(process, log, pid_fd, None)

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.process.port}"

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._wait(0.0)

    def last_line(self) -> str:
        """Return the last line of its log."""
        return last_line(self._log)

    def stop(self) -> None:
        """Stop it: SIGTERM, after a bound SIGKILL to its process group."""
        self._send(signal.SIGTERM)
        if not self._wait(STOP_TIMEOUT_S):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self._wait(STOP_TIMEOUT_S)
        os.close(self._pid_fd)

    def _send(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pid_fd, signum)

    def _wait(self, timeout_s: float) -> bool:
        """Wait until the process has ended; returns whether it has."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            left_s = max(deadline_s - time.monotonic(), 0.0)
            # Bounded slices, because a signal that another thread receives does not end a wait.
            if select.select([self._pid_fd], [], [], min(left_s, 0.5))[0]:
                if self._child is not None:
                    self._child.wait()
                return True
            if left_s == 0.0:
                return False


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in ticks since boot; None if it does not exist."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except OSError:
        return None
    # The name in parentheses may hold spaces; the 22nd field is the 20th after it (proc(5)).
    return int(content.rpartition(")")[2].split()[19])


def num_ports(argv: tuple[str, ...]) -> int:
    """Return how many ports in a row a worker with these flags needs."""
    found = [word.partition("=")[2] for word in argv if word.startswith("--replicas=")]
    replicas = int(found[-1]) if found and found[-1].isdecimal() else 1
    return 1 if replicas == 1 else replicas + 1
