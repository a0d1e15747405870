"""Reads files that a user names: regular files only, and text up to a size."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MAX_TEXT_BYTES = 1 << 20
"""Bound for configurations, LoadGen's confs, JSON files of a checkpoint, certificates and tokens."""


def open_regular(path: Path) -> BinaryIO:
    """Open a file to read, without waiting for a FIFO's writer.

    Raises:
        OSError: The file cannot be opened, or is not a regular file; `strerror` is the reason.
    """
    # Without O_NONBLOCK opening a FIFO waits for its writer.
    file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115 - returned
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return file
    file.close()
    code, reason = (
        (errno.EISDIR, os.strerror(errno.EISDIR))
        if stat.S_ISDIR(mode)
        else (errno.EINVAL, "is not a regular file")
    )
    raise OSError(code, reason, str(path))


def read_bounded(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Read a whole file.

    Raises:
        OSError: The file cannot be read, is not a regular file, or is longer; `strerror` is the reason.
    """
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"is longer than {max_bytes:,} bytes", str(path))
    return content
