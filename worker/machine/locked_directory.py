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
        with contextlib.ExitStack() as stack:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
            stack.callback(self._remove)
            # Renamed once it is locked: `remove_abandoned` takes a lock file without a lock for abandoned.
            unlocked = self.path / _UNLOCKED
            fcntl.flock(stack.enter_context(unlocked.open("w")), fcntl.LOCK_EX)
            unlocked.rename(self.path / _LOCK)
            _keep_from_cleaning(self.path, stack)
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

    def _remove(self) -> None:
        """Remove the directory; a job that cleans temporary directories may have done so earlier."""
        with contextlib.suppress(OSError):
            # If no descriptor was left for the lock file, there is none for rmtree either.
            self.path.rmdir()
        shutil.rmtree(self.path, ignore_errors=True)


def _keep_from_cleaning(path: Path, stack: contextlib.ExitStack) -> None:
    """Lock a directory itself: systemd-tmpfiles then removes none of its files, however old they are.

    Source: tmpfiles.d(5), Age.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, directory)
    with contextlib.suppress(OSError):
        # A network disk may lock files only.
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
