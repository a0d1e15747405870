"""The directory of one run: prepared under a hidden name, moved into place when the run begins."""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from common.atomic_files import partial_path
from common.flags import FlagError
from coordinator.recording.arrow_files import PARTIAL_NAME, STREAM_NAME, StreamFile
from coordinator.recording.file_thread import FileThread
from coordinator.recording.run_record import RunRecord
from coordinator.scheduling.network_audit import AUDIT_NAME
from sut import log_files
from sut.log_files import RECORD, REJECTED_PREFIX
from sut.results.timing.requests_file import NAMES

logger = logging.getLogger(__name__)

# A stalled NFS server answers again after tens of seconds.
PREPARE_TIMEOUT_S = 60.0
WRITE_TIMEOUT_S = 60.0
# An interrupted user waits for this.
REMOVE_TIMEOUT_S = 3.0
RESERVED_NAME = ".reserved"
RESERVED_BYTES = 1024 * 1024
# Files that are written under another name first.
_ATOMIC_NAMES = (
    *(RECORD, PARTIAL_NAME, log_files.REPORT, log_files.TIMELINE),
    *(*log_files.EVALUATION_NAMES, *NAMES),
)
_WRITTEN_NAMES = frozenset(
    [log_files.USER_CONF, log_files.AUDIT_CONFIG, RESERVED_NAME, AUDIT_NAME, STREAM_NAME]
    + [name for whole in _ATOMIC_NAMES for name in (whole, partial_path(Path(whole)).name)]
    + [f"{prefix}{name}" for prefix in ("", REJECTED_PREFIX) for name in log_files.NAMES]
)
"""Every file that a run writes to its directory."""
# The first key of run.json, which is written whole or not at all.
_RECORD_START = re.compile(rb'\{\s*"run_id":\s*"')
_T = TypeVar("_T")


class LoadGenConfs(NamedTuple):
    """Texts of the files that LoadGen reads."""

    user: str
    audit: str | None


def check_free(path: Path, *, overwrite: bool) -> None:
    """Require a path that does not exist, or one that may be replaced and whose run has ended.

    Raises:
        ValueError: The path exists, a run still uses it, or it cannot be examined.
    """
    try:
        exists = path.exists()
    except OSError as error:
        raise FlagError("--output-dir", f"cannot look at {path}: {error.strerror}") from error
    if not exists:
        return
    if not overwrite:
        raise FlagError("--output-dir", f"{path} exists; --overwrite replaces it if a run wrote it")
    _check_own(path)
    # A run keeps its user.conf locked until it ends; a directory without that file belongs to no run.
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError),
        (path / log_files.USER_CONF).open("r+") as conf,
    ):
        try:
            fcntl.flock(conf, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FlagError("--output-dir", f"{path} belongs to a run that has not ended") from error


def _check_own(path: Path) -> None:
    """Require a directory that is empty or that a run wrote, and that holds only what a run writes.

    Raises:
        FlagError: Names what no run wrote.
    """
    reason = f"{path} was not written by a run, and --overwrite replaces nothing else"
    if path.is_symlink() or not path.is_dir():
        raise FlagError("--output-dir", f"{reason}: it is not a directory")
    found = list(path.iterdir())
    for entry in found:
        if entry.name not in _WRITTEN_NAMES or entry.is_symlink() or not entry.is_file():
            raise FlagError("--output-dir", f"{reason}: it holds {entry.name!r}")
    if found and not _starts_a_record(path / RECORD):
        raise FlagError("--output-dir", f"{reason}: it holds no {RECORD} of a run")


def _starts_a_record(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _RECORD_START.match(file.read(100)) is not None
    except FileNotFoundError:
        return False


class RunDir:
    """One run's directory; every method waits for the file system with a bound, on the main thread.

    Within the `with` block it exists under a hidden name beside its own, until `begin` moves it into place.
    If the block ends before `begin`, everything is removed and an earlier run's directory is untouched.
    """

    def __init__(self, path: Path, confs: LoadGenConfs, files: FileThread, *, overwrite: bool) -> None:
        """Describe the directory; nothing is written yet.

        Args:
            path: Where it will be.
            confs: The run's settings.
            files: Makes the file system calls.
            overwrite: Whether `begin` may replace the directory of a run that has ended.
        """
        self.path = path
        self.audit_config = None if confs.audit is None else path / log_files.AUDIT_CONFIG
        """The run's own copy: the given file may lie in the directory that --overwrite replaces."""
        self._confs = confs
        self._files = files
        self._overwrite = overwrite
        name = f".{path.name}.{uuid.uuid4().hex[:8]}"
        self._hidden, self._replaced = path.with_name(f"{name}.new"), path.with_name(f"{name}.old")
        self._new_parents: list[Path] = []
        self._lock = contextlib.ExitStack()
        """Holds user.conf open and locked, for as long as the process lives once the run has begun."""
        self._begun = False

    def __enter__(self) -> Self:
        """Create the directory with the run's settings, under its hidden name.

        Raises:
            ValueError: It belongs to another run or cannot be written.
            Interrupted: A signal arrived; nothing is left.
        """
        try:
            self._prepare(self._make)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the directory of a run that has not begun."""
        if not self._begun:
            self._discard()

    def create_stream(self) -> StreamFile:
        """Create the file of received outputs.

        Raises:
            ValueError: It cannot be written.
        """
        return self._prepare(partial(StreamFile, self._hidden / STREAM_NAME))

    def begin(self, record: RunRecord) -> None:
        """Write the first run.json and move the directory into place; an earlier run's is deleted.

        Raises:
            ValueError: The path now belongs to another run, or cannot be written.
        """
        self._prepare(partial(self._begin, record))

    def write(self, record: RunRecord, timeout_s: float = WRITE_TIMEOUT_S) -> None:
        """Write run.json whole or not at all; on a full disk the reserved space is used.

        Raises:
            OSError: It cannot be written, or not in time.
        """
        self._files.call(partial(self._write, record), timeout_s)

    def hash_files(self) -> dict[str, str]:
        """Compute the SHA-256 of LoadGen's logs and confs.

        Raises:
            OSError: A file cannot be read.

        Thread: file thread.
        """
        return log_files.hash_files(self.path)

    def release_space(self) -> None:
        """Delete the file that reserves space for run.json.

        Raises:
            OSError: It cannot be deleted, or not in time.
        """
        self._files.call(partial(release, self.path), WRITE_TIMEOUT_S)

    def _prepare(self, work: Callable[[], _T]) -> _T:
        try:
            return self._files.call(work, PREPARE_TIMEOUT_S)
        except OSError as error:
            raise FlagError("--output-dir", f"cannot write {self.path}: {error.strerror or error}") from error

    def _discard(self) -> None:
        """Remove the hidden directory; one that a stalled disk keeps longer than the bound stays."""
        with contextlib.suppress(OSError):
            self._files.call(self._remove, REMOVE_TIMEOUT_S)

    def _make(self) -> None:
        """Thread: file thread, as all that follow."""
        check_free(self.path, overwrite=self._overwrite)
        self._new_parents = [parent for parent in self.path.parents if not parent.exists()]
        self._hidden.mkdir(parents=True)
        conf = self._lock.enter_context((self._hidden / log_files.USER_CONF).open("w", encoding="utf-8"))
        fcntl.flock(conf, fcntl.LOCK_EX | fcntl.LOCK_NB)
        conf.write(self._confs.user)
        conf.flush()
        if self._confs.audit is not None:
            (self._hidden / log_files.AUDIT_CONFIG).write_text(self._confs.audit, encoding="utf-8")
        reserve(self._hidden)

    def _begin(self, record: RunRecord) -> None:
        check_free(self.path, overwrite=self._overwrite)
        record.write(self._hidden / RECORD)
        if self.path.exists():
            os.rename(self.path, self._replaced)
        try:
            os.rename(self._hidden, self.path)
        except OSError:
            if self._replaced.exists():
                os.rename(self._replaced, self.path)
            raise
        self._begun = True
        if self._replaced.exists():
            try:
                shutil.rmtree(self._replaced)
            except OSError as error:
                logger.warning("the replaced run was not deleted: %s", error)

    def _write(self, record: RunRecord) -> None:
        try:
            record.write(self.path / RECORD)
        except OSError:
            release(self.path)
            record.write(self.path / RECORD)

    def _remove(self) -> None:
        if self._begun:
            return
        shutil.rmtree(self._hidden, ignore_errors=True)
        self._lock.close()
        for parent in self._new_parents:
            with contextlib.suppress(OSError):
                parent.rmdir()


def reserve(run_dir: Path) -> None:
    """Allocate 1 MiB, so that run.json can be written on a disk that has filled up.

    Raises:
        OSError: The disk does not have this space.
    """
    path = run_dir / RESERVED_NAME
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(fd, 0, RESERVED_BYTES)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)


def release(run_dir: Path) -> None:
    """Free the reserved space right before run.json is written: after `salvage`, which would use it."""
    (run_dir / RESERVED_NAME).unlink(missing_ok=True)
