"""The directory of one run: whose it is, what it is made of, and how a verdict gets there on a full disk."""

import contextlib
import fcntl
import shutil
from pathlib import Path
from typing import TextIO

from coordinator.recording.outputs import release, reserve
from coordinator.recording.run_record import RunRecord

_CONF = "user.conf"


def check_free(path: Path, *, overwrite: bool) -> None:
    """Want a directory that no run has, or one that may be replaced and whose run has ended.

    Raises:
        ValueError: Says which is not so, or that nobody can tell.
    """
    try:
        exists = path.exists()
    except OSError as error:
        raise ValueError(f"--output-dir: cannot look at {path}: {error.strerror}") from error
    if not exists:
        return
    if not overwrite:
        raise ValueError(f"--output-dir: {path} exists; --overwrite replaces it")
    # A run holds its user.conf locked while it lasts; a directory without one is no run's.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), (path / _CONF).open("r+") as conf:
        try:
            fcntl.flock(conf, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"--output-dir: {path} belongs to a run that goes on") from error


class RunDir:
    """One run's directory."""

    def __init__(self, path: Path) -> None:
        """Name it; nothing is written yet."""
        self.path = path
        self.audit_config: Path | None = None
        """The run's own copy: the given file may lie in the directory that --overwrite empties."""
        self._reserved: Path | None = None
        self._conf: TextIO | None = None

    def make(self, user_conf: str, audit_conf: str | None, *, overwrite: bool) -> None:
        """Create it with the run's settings.

        Args:
            user_conf: Text of its user.conf.
            audit_conf: Text of its audit.config, if any.
            overwrite: Whether one that is there is replaced.

        Raises:
            ValueError: It is another run's: that one may have come while this one waited for its workers.
            OSError: It cannot be written.
        """
        check_free(self.path, overwrite=overwrite)
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        self._conf = (self.path / _CONF).open("w", encoding="utf-8")
        fcntl.flock(self._conf, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._conf.write(user_conf)
        self._conf.flush()
        if audit_conf is not None:
            self.audit_config = self.path / "audit.config"
            self.audit_config.write_text(audit_conf, encoding="utf-8")
        self._reserved = reserve(self.path)

    def write(self, record: RunRecord) -> None:
        """Write run.json whole or not at all, on a full disk into the space that was set aside.

        Raises:
            OSError: It cannot be written.
        """
        try:
            record.write(self.path / "run.json")
        except OSError:
            self.release_space()
            record.write(self.path / "run.json")

    def remove(self) -> None:
        """Leave nothing of a run that could not begin, and what is another's alone."""
        if self._conf is not None:
            shutil.rmtree(self.path, ignore_errors=True)

    def release_space(self) -> None:
        """Give the space back that was set aside for a verdict."""
        if self._reserved is not None:
            release(self._reserved)
