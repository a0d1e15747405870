"""The grader's end of the connection to a runner: bounded frames, a deadline, and how the process ended."""

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from common.text import printable
from sut.results.code_grading.program_runner import HEADER

_EXIT_WAIT_S = 5.0
_MAX_MESSAGE_BYTES = 2_000
_STEP_S = 1.0
_SHORTEST_STOP_S = 5.0
"""A step that takes this much longer shows a stopped process, not a busy machine."""
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Status of a killed process; bubblewrap reports the signal of its child as a shell does.

The process filter refuses both to a program: SIGKILL comes from the kernel, for a limit, or from a person.
"""


class Frame(NamedTuple):
    """One message of a runner."""

    kind: bytes
    content: bytes


class FrameTooLongError(Exception):
    """A runner announced a longer frame than the caller takes."""


class RunnerEndedError(Exception):
    """The runner's process has closed the connection."""


class RunnerConnection:
    """Frames to and from one runner; raises TimeoutError after the deadline."""

    def __init__(self, connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self._socket = connection
        self._process = process
        self._deadline = time.monotonic()
        self.was_stopped = False
        """Whether this process was stopped, by a signal or with its machine, while it waited."""

    def set_deadline(self, seconds: float) -> None:
        """Bound everything from now on."""
        self._deadline = time.monotonic() + seconds

    @contextmanager
    def shorter_deadline(self, seconds: float) -> Iterator[None]:
        """Bound what is inside the block more tightly, if it is."""
        shorter_by = max(0.0, self._deadline - (time.monotonic() + seconds))
        self._deadline -= shorter_by
        try:
            yield
        finally:
            self._deadline += shorter_by

    def send(self, content: bytes) -> None:
        """Send one frame.

        Raises:
            RunnerEndedError, TimeoutError: The runner does not take it.
        """
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(HEADER.pack(b"S", len(content)) + content)
        except BlockingIOError as error:
            raise TimeoutError from error
        except ConnectionError as error:
            raise RunnerEndedError from error

    def receive(self, max_len: int) -> Frame:
        """Wait for a frame.

        Raises:
            FrameTooLongError: Its content is longer than max_len; nothing of it has been read.
            RunnerEndedError, TimeoutError: There will be none.
        """
        kind, size = HEADER.unpack(self._read(HEADER.size))
        if size > max_len:
            raise FrameTooLongError
        return Frame(kind, bytes(self._read(size)))

    def _read(self, size: int) -> bytearray:
        content = bytearray(size)
        view = memoryview(content)
        while view:
            try:
                received = self._receive_part(view)
            except ConnectionError as error:
                raise RunnerEndedError from error
            if not received:
                raise RunnerEndedError
            view = view[received:]
        return content

    def _receive_part(self, view: memoryview) -> int:
        """Wait for some bytes, in steps that show whether this process was stopped meanwhile."""
        while True:
            start, left = time.monotonic(), self._left()
            self._socket.settimeout(min(left, _STEP_S))
            try:
                # After the deadline, what is already there is still taken.
                return self._socket.recv_into(view)
            except (TimeoutError, BlockingIOError) as error:
                if left <= _STEP_S:
                    raise TimeoutError from error
            finally:
                self._note_stop(time.monotonic() - start - _STEP_S)

    def _note_stop(self, excess_s: float) -> None:
        """Give back the time during which this process was stopped."""
        if excess_s > _SHORTEST_STOP_S:
            self.was_stopped = True
            self._deadline += excess_s

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def was_killed(self) -> bool:
        """Whether something outside the program ended the process, once the connection is closed."""
        try:
            status = self._process.wait(_EXIT_WAIT_S)
        except subprocess.TimeoutExpired:
            return False
        return status in _KILLED

    def start_error(self) -> str:
        """Return the first line that a process wrote that never became a runner."""
        kill_group(self._process)
        assert self._process.stderr is not None
        content = _read_pipe(self._process.stderr.fileno(), _MAX_MESSAGE_BYTES)
        lines = content.decode(errors="replace").splitlines()
        return printable(lines[0], 200) if lines else "the process ended without a message"


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a runner's process and the others of its process group, unless it has ended.

    If bubblewrap is killed while it starts, its child would wait for it forever, with our pipe open.
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _read_pipe(fd: int, max_len: int) -> bytes:
    """Read a pipe up to its end or `max_len` bytes, for a bounded time."""
    content = b""
    deadline_s = time.monotonic() + _EXIT_WAIT_S
    while len(content) < max_len:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not select.select([fd], [], [], left_s)[0]:
            break
        part = os.read(fd, max_len - len(content))
        if not part:
            break
        content += part
    return content
