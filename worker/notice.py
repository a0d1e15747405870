"""What a worker tells whoever started it, in systemd's words (sd_notify), and who ends with whom."""

import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time

logger = logging.getLogger(__name__)

NOTIFY_SOCKET = "NOTIFY_SOCKET"
NODE_PID = "TOKENFLEET_NODE_PID"
READY = "READY=1"
STOPPING = "STOPPING=1"
# Source: prctl(2).
_PR_SET_PDEATHSIG = 1
PARENT_POLL_S = 1.0


def tell(words: str) -> None:
    """Send READY or STOPPING to $NOTIFY_SOCKET; nothing where nobody asks."""
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


def end_with_node() -> bool:
    """Have the kernel kill this process when its node dies, however that dies; False: it is dead already.

    A node that is started again finds its replicas' ports free.
    """
    node_pid = os.environ.get(NODE_PID)
    if node_pid is None:
        return True
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == int(node_pid)


def end_with_parent() -> None:
    """Have this process, which multiprocessing has spawned, end soon after its parent, however that ends.

    vLLM's engine core would outlive a worker that is killed, and keep its accelerators' memory. The kernel's
    signal is of no use here: it comes with the end of the thread that has spawned, not of its process.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(PARENT_POLL_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()
