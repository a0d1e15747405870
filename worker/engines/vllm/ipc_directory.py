"""The directory of the UNIX sockets between vLLM's processes."""

import os
import tempfile

from common.flags import FlagError
from worker.machine.locked_directory import NAME_LEN, LockedDirectory

VARIABLE = "VLLM_RPC_BASE_PATH"
# Source: unix(7), sun_path of 108 bytes, the last of them 0.
MAX_SOCKET_PATH_BYTES = 107
# A slash and a UUID. Source: vllm 0.32.0, utils/network_utils.py, get_open_zmq_ipc_path.
_SOCKET_NAME_LEN = 1 + 36
MAX_DIRECTORY_BYTES = MAX_SOCKET_PATH_BYTES - _SOCKET_NAME_LEN


def check_ipc_directory() -> None:
    """Check that vLLM can create sockets in its temporary directory; vLLM itself fails after minutes.

    Raises:
        FlagError: Names the variable, the directory and the bound.
    """
    variable = VARIABLE if VARIABLE in os.environ else "TMPDIR"
    try:
        directory = os.environ.get(VARIABLE) or tempfile.gettempdir()
    except FileNotFoundError as error:
        raise FlagError("TMPDIR", f"no temporary directory is writable: {error.strerror}") from error
    length = len(os.fsencode(directory))
    if length > MAX_DIRECTORY_BYTES:
        reason = f"has {length} bytes; vLLM's sockets need a path of at most {MAX_DIRECTORY_BYTES}"
        raise FlagError(variable, reason, directory)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise FlagError(variable, "no writable directory", directory)


class IpcDirectory:
    """A directory for the sockets of one engine, which a later worker removes if this one is killed.

    Without effect if the user has set VLLM_RPC_BASE_PATH, or if the temporary directory's path is too long
    for another level.
    """

    def __init__(self, is_local: bool) -> None:
        """Create the directory and make vLLM use it.

        Args:
            is_local: All of vLLM's processes run on this machine; vLLM passes the variable to the others.

        Raises:
            OSError: The directory cannot be created.
        """
        self._directory: LockedDirectory | None = None
        fits = len(os.fsencode(tempfile.gettempdir())) + 1 + NAME_LEN <= MAX_DIRECTORY_BYTES
        if is_local and fits and VARIABLE not in os.environ:
            self._directory = LockedDirectory()
            os.environ[VARIABLE] = str(self._directory.path)

    def close(self) -> None:
        """Remove the directory."""
        if self._directory is not None:
            if os.environ.get(VARIABLE) == str(self._directory.path):
                del os.environ[VARIABLE]
            self._directory.close()
