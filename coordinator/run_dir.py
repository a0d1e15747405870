"""The directory of one run: what it is made of, and how a verdict gets there even when the disk is full."""

import shutil
from pathlib import Path

from coordinator.outputs import release, reserve
from coordinator.record import RunRecord


class RunDir:
    """One run's directory."""

    def __init__(self, path: Path) -> None:
        """Name it; nothing is written yet."""
        self.path = path
        self.audit_config: Path | None = None
        """The run's own copy: the given file may lie in the directory that --overwrite empties."""
        self._reserved: Path | None = None

    def make(self, user_conf: str, audit_conf: str | None) -> None:
        """Create it, in place of an earlier one, with the run's settings.

        Raises:
            OSError: It cannot be written.
        """
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        (self.path / "user.conf").write_text(user_conf, encoding="utf-8")
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
        """Leave nothing of a run that could not begin."""
        shutil.rmtree(self.path, ignore_errors=True)

    def release_space(self) -> None:
        """Give the space back that was set aside for a verdict."""
        if self._reserved is not None:
            release(self._reserved)
