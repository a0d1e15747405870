"""What a worker tells whoever started it, in systemd's words (sd_notify), and who ends with whom."""

import contextlib
import ctypes
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator

logger = logging.getLogger(__name__)

NOTIFY_SOCKET = "NOTIFY_SOCKET"
NODE_PID = "TOKENFLEET_NODE_PID"
READY = "READY=1"
STOPPING = "STOPPING=1"
STATUS = "STATUS="
MAX_STATUS_LEN = 1000
NODE_GONE = signal.SIGHUP
"""Ends a replica at once but in order: its engine's processes would outlive a kill, and a drain would keep
the port from the next node's replica."""
# Source: prctl(2).
_PR_SET_PDEATHSIG = 1


def tell(words: str) -> None:
    """Send READY, STOPPING or a status to $NOTIFY_SOCKET; nothing where nobody asks."""
    address = os.environ.get(NOTIFY_SOCKET)
    if not address:
        return
    # systemd writes an abstract socket's name with @.
    address = f"\0{address[1:]}" if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(words.encode(), address)
        except OSError as error:
            logger.warning("%s: %s not told: %s", NOTIFY_SOCKET, words, error)


def tell_why(reason: str) -> None:
    """Tell why this process ends, on one line; systemd shows it too."""
    tell(STATUS + " ".join(reason.split())[:MAX_STATUS_LEN])


@contextlib.contextmanager
def open_notices() -> Iterator[tuple[socket.socket, str]]:
    """Bind a socket where one process may tell; yields it and its path, where nobody else may write.

    Raises:
        OSError: There is no descriptor or directory for it, or the directory's path is too long.
    """
    # Whoever cleans temporary directories may have been there first.
    with (
        tempfile.TemporaryDirectory(prefix="tokenfleet-", ignore_cleanup_errors=True) as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notices,
    ):
        path = f"{directory}/notify"
        notices.bind(path)
        yield notices, path


def check_notices() -> None:
    """Try the temporary directory out.

    Raises:
        ValueError: A socket for notices cannot be had there.
    """
    try:
        with open_notices():
            pass
    except OSError as error:
        where = os.environ.get("TMPDIR", "not set")
        raise ValueError(f"TMPDIR: {where}: no socket for replicas can be there: {error}") from error


def is_of_node() -> bool:
    """Say whether this process is a node's replica; to any other SIGHUP is its terminal's end, or nohup's."""
    return NODE_PID in os.environ


def end_with_node() -> bool:
    """Have the kernel send NODE_GONE when the node dies, however that dies; False: it is dead already."""
    if not is_of_node():
        return True
    # A node under nohup hands down that it is ignored.
    signal.signal(NODE_GONE, signal.SIG_DFL)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, NODE_GONE)
    return os.getppid() == int(os.environ[NODE_PID])
