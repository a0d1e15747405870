"""systemd's notification protocol (sd_notify): a worker reports its state to the process that started it."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from common.flags import FlagError
from worker.machine.locked_directory import LockedDirectory

logger = logging.getLogger(__name__)

NOTIFY_SOCKET = "NOTIFY_SOCKET"
READY = "READY=1"
STOPPING = "STOPPING=1"
_STATUS = "STATUS="
MAX_STATUS_LEN = 1000
_MAX_DATAGRAM_BYTES = 1 << 16


def notify(state: str) -> None:
    """Send READY, STOPPING or a status to $NOTIFY_SOCKET; do nothing if it is not set."""
    address = os.environ.get(NOTIFY_SOCKET)
    if not address:
        return
    # systemd writes an abstract socket's name with @.
    address = f"\0{address[1:]}" if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(state.encode(), address)
        except OSError as error:
            logger.warning("%s: %s was not sent: %s", NOTIFY_SOCKET, state, error)


def notify_exit_reason(reason: str) -> None:
    """Send the reason why this process ends, as one line of status; systemctl status shows it too."""
    notify(_STATUS + " ".join(reason.split())[:MAX_STATUS_LEN])


class NotifySocket:
    """Receives the notifications of one child process; a context manager."""

    def __init__(self) -> None:
        """Bind a socket in a temporary directory that only this user can write to.

        Raises:
            OSError: No descriptor or directory is available, or the directory's path is too long.
        """
        self.is_ready = self.is_stopping = False
        self.status = ""
        """Last status received; empty if none was."""
        with contextlib.ExitStack() as stack:
            self.path = str(stack.enter_context(LockedDirectory()).path / "notify")
            self._socket = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            self._socket.setblocking(False)
            self._socket.bind(self.path)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def fileno(self) -> int:
        """Return the descriptor, for select and asyncio."""
        return self._socket.fileno()

    def receive(self) -> None:
        """Read all notifications that have arrived; does not block."""
        for line in self._lines():
            if line == READY:
                self.is_ready = True
            elif line == STOPPING:
                self.is_stopping = True
            elif line.startswith(_STATUS):
                self.status = line.removeprefix(_STATUS)

    def _lines(self) -> Iterator[str]:
        with contextlib.suppress(BlockingIOError):
            while True:
                yield from self._socket.recv(_MAX_DATAGRAM_BYTES).decode(errors="replace").splitlines()


def check_notify_socket() -> None:
    """Check that the temporary directory can hold a replica's notification socket.

    Raises:
        FlagError: The socket cannot be created.
    """
    try:
        with NotifySocket():
            pass
    except OSError as error:
        directory = os.environ.get("TMPDIR", "not set")
        raise FlagError(
            "TMPDIR", f"{directory}: no socket for replicas can be created there: {error}"
        ) from error
