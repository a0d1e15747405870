"""Temporary directories that a later worker removes if their process was killed.

Each directory holds a file that its process keeps locked. The kernel releases the lock when the process ends.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

logger = logging.getLogger(__name__)

PREFIX = "tokenfleet-"
# tempfile appends eight characters.
NAME_LEN = len(PREFIX) + 8
_NAME = re.compile(PREFIX + "[a-z0-9_]{8}")
_LOCK = "lock"
_UNLOCKED = "lock.new"


class LockedDirectory:
    """A directory under the temporary directory that only this user can use; a context manager."""

    def __init__(self) -> None:
        """Create the directory.

        Raises:
            OSError: The temporary directory is full or not writable, or no descriptor is available.
        """
        # A job that cleans temporary directories may remove the directory earlier.
        directory = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
        with contextlib.ExitStack() as stack:
            self.path = Path(stack.enter_context(directory))
            # Renamed once it is locked: `remove_abandoned` takes a lock file without a lock for abandoned.
            unlocked = self.path / _UNLOCKED
            fcntl.flock(stack.enter_context(unlocked.open("w")), fcntl.LOCK_EX)
            unlocked.rename(self.path / _LOCK)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the directory."""
        self._stack.close()


def remove_abandoned() -> None:
    """Remove this user's directories whose processes have ended without removing them."""
    for path in _candidates():
        with contextlib.suppress(OSError), (path / _LOCK).open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path)
            logger.info("removed %s, which a killed process has left", path)


def _candidates() -> list[Path]:
    """List directories that are named like ours and belong to this user."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        return [
            Path(entry.path)
            for entry in entries
            if _NAME.fullmatch(entry.name)
            and entry.is_dir(follow_symlinks=False)
            and entry.stat(follow_symlinks=False).st_uid == os.getuid()
        ]
    return []
