"""Worker process of a replica: start, notifications, log and exit status."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import NamedTuple, Self

from common.child_process import child_command, child_environment
from common.shared_readings import SharedReadings
from common.text import printable
from worker.machine.gpus import VARIABLE
from worker.machine.life_signs import SHARED_FD
from worker.machine.parent_death import NODE_PID
from worker.machine.sd_notify import NOTIFY_SOCKET, NotifySocket

MAX_LINE_BYTES = 1 << 16
MAX_REASON_LEN = 300
NUM_LAST_LINES = 20
GROUP_TIMEOUT_S = 2.0
"""Time for the other processes of the group to end by themselves after the replica's own process.

Those of an engine end at once. Python's resource tracker removes their shared memory only after that: killed
with them, it would leave the memory in use for as long as the machine runs.
"""
_GROUP_POLL_S = 0.02
# Time to read the rest of the log from the pipe after the process has ended.
LOG_TIMEOUT_S = 5.0


class ProcessEnd(NamedTuple):
    """How a process ended."""

    exit_code: int
    """Negative: minus the signal that ended the process."""
    status: str
    """Reason that the process reported; empty if none."""
    last_lines: tuple[str, ...]
    """Last lines of its log."""

    def describe(self) -> str:
        """Return one line: exit code or signal, and the reason if known."""
        if self.exit_code < 0:
            how, reason = f"ended by {signal.Signals(-self.exit_code).name}", self.status
        else:
            # Prefer the status: the last line may come from the interpreter or a library, without the cause.
            last_line = self.last_lines[-1] if self.last_lines else ""
            how, reason = f"exit code {self.exit_code}", self.status or last_line
        return printable(f"{how}: {reason}", MAX_REASON_LEN) if reason else how


class ReplicaLog:
    """Copies a replica's log to this process's stderr and keeps the last lines; a context manager."""

    def __init__(self, index: int, pipe: int) -> None:
        """Start copying.

        Args:
            index: The replica's number, printed before each line.
            pipe: Read end of the log's pipe; closed at the end.
        """
        self._prefix = f"[replica {index}]"
        self.last_lines: deque[str] = deque(maxlen=NUM_LAST_LINES)
        self.relaying = asyncio.ensure_future(self._relay(pipe))
        """Done when every process has closed the pipe."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.relaying.cancel()

    async def _relay(self, pipe: int) -> None:
        """Copy until the pipe ends; a line longer than MAX_LINE_BYTES is copied in pieces."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb")
        )
        rest = b""
        try:
            while data := await reader.read(MAX_LINE_BYTES):
                *lines, rest = (rest + data).split(b"\n")
                if len(rest) > MAX_LINE_BYTES:
                    lines, rest = [*lines, rest], b""
                self._write(lines)
            self._write([rest] if rest else [])
        finally:
            transport.close()

    def _write(self, lines: list[bytes]) -> None:
        texts = [line.decode(errors="replace") for line in lines]
        self.last_lines.extend(text for text in texts if text.strip())
        # The node's terminal may be closed; the last lines are still needed.
        with contextlib.suppress(OSError):
            sys.stderr.write("".join(f"{self._prefix} {text}\n" for text in texts))
            sys.stderr.flush()


class ReplicaProcess:
    """A running process; created by `run_process`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        log: ReplicaLog,
        notify_socket: NotifySocket,
        on_notified: Callable[[NotifySocket], None],
    ) -> None:
        """Wrap a process that was started with this notification socket."""
        self._process = process
        self._log = log
        self._notify_socket = notify_socket
        self._on_notified = on_notified

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def send_signal(self, signum: int) -> None:
        """Send a signal to the process if it is still running."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signum)

    def receive(self) -> None:
        """Read the notifications that have arrived."""
        self._notify_socket.receive()
        self._on_notified(self._notify_socket)

    async def wait(self) -> ProcessEnd:
        """Wait until the process has ended and its log has been read."""
        exit_code = await self._process.wait()
        await self._let_group_end()
        self._kill_group()
        await asyncio.wait((self._log.relaying,), timeout=LOG_TIMEOUT_S)
        self.receive()
        return ProcessEnd(exit_code, self._notify_socket.status, tuple(self._log.last_lines))

    def close(self) -> None:
        """Kill the process group if the process is still running."""
        if self._process.returncode is None:
            self._kill_group()

    async def _let_group_end(self) -> None:
        deadline_s = time.monotonic() + GROUP_TIMEOUT_S
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline_s:
                os.killpg(self._process.pid, 0)
                await asyncio.sleep(_GROUP_POLL_S)

    def _kill_group(self) -> None:
        """Kill the process group; children left running would keep accelerators and the log's pipe in use."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


@contextlib.asynccontextmanager
async def run_process(
    index: int,
    argv: list[str],
    devices: tuple[str, ...],
    on_notified: Callable[[NotifySocket], None],
    shared: SharedReadings,
) -> AsyncIterator[ReplicaProcess]:
    """Run a worker process inside a `with` block; its process group does not outlive the block.

    Args:
        index: The replica's number, printed in its log.
        argv: The worker's flags.
        devices: Accelerators visible to the process; empty: all.
        on_notified: Called after notifications have arrived.
        shared: The process writes its metrics there.

    Raises:
        OSError: The process cannot be started: no memory, descriptor, directory or process id.
        RuntimeError: The thread that waits for the process cannot be started.
    """
    loop = asyncio.get_running_loop()
    with NotifySocket() as notify_socket:
        process, pipe = await _start(argv, devices, notify_socket.path, shared)
        with ReplicaLog(index, pipe) as log:
            running = ReplicaProcess(process, log, notify_socket, on_notified)
            loop.add_reader(notify_socket, running.receive)
            try:
                yield running
            finally:
                loop.remove_reader(notify_socket)
                running.close()


async def _start(
    argv: list[str], devices: tuple[str, ...], notify_path: str, shared: SharedReadings
) -> tuple[asyncio.subprocess.Process, int]:
    """Start a process; returns it and the read end of its log's pipe, which the caller closes."""
    environment = os.environ | {NOTIFY_SOCKET: notify_path, NODE_PID: str(os.getpid())}
    environment[SHARED_FD] = str(shared.fileno())
    if devices:
        environment[VARIABLE] = ",".join(devices)
    # With asyncio's own pipe, waiting for the process would last until all its children close the pipe.
    log, log_end = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *child_command("worker", argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log_end,
            stderr=log_end,
            env=child_environment(environment),
            pass_fds=(shared.fileno(),),
            start_new_session=True,
        )
    except (OSError, RuntimeError):
        os.close(log)
        raise
    finally:
        os.close(log_end)
    return process, log
