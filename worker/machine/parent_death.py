"""Ends a process when the process that started it dies, even by SIGKILL; Linux only."""

import ctypes
import os
import signal

NODE_PID = "TOKENFLEET_NODE_PID"
NODE_GONE = signal.SIGHUP
"""Makes a replica stop its engine and exit without a drain. SIGKILL would leave the engine's processes
running, and a drain would keep the port in use when the next node starts."""
# Source: prctl(2).
_PR_SET_PDEATHSIG = 1


def is_replica() -> bool:
    """Return whether a node started this process; if not, SIGHUP means that its terminal has closed."""
    return NODE_PID in os.environ


def end_with_node() -> bool:
    """Have the kernel send NODE_GONE to this process when its node dies; False: the node is already dead."""
    if not is_replica():
        return True
    # Under nohup the process inherits that the signal is ignored.
    signal.signal(NODE_GONE, signal.SIG_DFL)
    return end_with_parent(int(os.environ[NODE_PID]), NODE_GONE)


def end_with_parent(parent_pid: int, signum: int = signal.SIGKILL) -> bool:
    """Have the kernel send a signal to this process when its parent dies; False: the parent is already dead.

    The kernel sends the signal when the thread that started this process ends, so that thread must live as
    long as the parent process.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum)
    return os.getppid() == parent_pid
