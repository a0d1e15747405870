"""Temporary directories of killed processes are removed at the next start, and no others."""

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests import fleet
from tests.forked import end_of
from worker.__main__ import main
from worker.machine.locked_directory import LockedDirectory, remove_abandoned

HOLDER = """
import sys, tempfile, time
from worker.machine.locked_directory import LockedDirectory
tempfile.tempdir = sys.argv[1]
directory = LockedDirectory()
(directory.path / "socket").touch()
print(directory.path, flush=True)
time.sleep(600)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty temporary directory of this process."""
    path = tmp_path / "tmp"
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    return path


def test_directory_of_a_killed_process_is_removed_at_the_next_start(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its process lives the directory is kept; a worker that starts after the kill removes it."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(place)], cwd=fleet.ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        path = Path(holder.stdout.readline().strip())
        assert (place, True) == (path.parent, (path / "socket").exists())
        remove_abandoned()
        assert [path] == list(place.iterdir())
    finally:
        holder.kill()
        holder.communicate(timeout=240)
    assert [path] == list(place.iterdir())
    monkeypatch.setenv("TMPDIR", str(place))
    assert 2 == end_of(main, ["--port", "0"], tmp_path).code
    assert path.exists()
    program = ("env", f"TMPDIR={place}", sys.executable, "-m", "worker")
    worker = fleet.start_worker(tmp_path / "worker.log", program=program)
    try:
        fleet.wait_serving(worker, 30.0)
        assert not path.exists()
    finally:
        worker.stop()


def test_directory_is_removed_by_its_own_process(place: Path) -> None:
    """It disappears when it is closed, and when another job has removed it already nothing happens."""
    with LockedDirectory() as directory:
        assert [directory.path] == list(place.iterdir())
        assert 0o700 == directory.path.stat().st_mode & 0o777
    assert [] == list(place.iterdir())
    with LockedDirectory() as directory:
        (directory.path / "lock").unlink()
        directory.path.rmdir()
    assert [] == list(place.iterdir())


def test_directory_is_kept_from_cleaning(place: Path) -> None:
    """It is locked itself, which systemd-tmpfiles takes as a sign to leave it alone: tmpfiles.d(5), Age."""
    with LockedDirectory() as directory:
        fd = os.open(directory.path, os.O_RDONLY)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(fd)
    assert [] == list(place.iterdir())


def test_what_may_not_be_ours_is_kept(place: Path) -> None:
    """A directory with another name, without a lock file, with one not locked yet, a file, and a link."""
    elsewhere = place.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").touch()
    for name in (
        "tokenfleet-abc",
        "tokenfleet-abcdefgh-2",
        "other",
        "tokenfleet-nolock_0",
        "tokenfleet-creating",
    ):
        (place / name).mkdir()
    for name in ("tokenfleet-abc", "tokenfleet-abcdefgh-2", "other"):
        (place / name / "lock").touch()
    (place / "tokenfleet-creating" / "lock.new").touch()
    (place / "tokenfleet-afile000").touch()
    (place / "tokenfleet-alink000").symlink_to(elsewhere)
    before = sorted(place.rglob("*"))
    remove_abandoned()
    assert before == sorted(place.rglob("*"))
    assert (elsewhere / "lock").exists()


def test_directory_of_another_user_is_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner must be this user, whatever the name."""
    (place / "tokenfleet-abcdefgh").mkdir()
    (place / "tokenfleet-abcdefgh" / "lock").touch()
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    remove_abandoned()
    assert (place / "tokenfleet-abcdefgh" / "lock").exists()


def test_lock_of_another_holder_is_respected(place: Path) -> None:
    """A lock file that any process holds locked keeps its directory, e.g. in another container."""
    path = place / "tokenfleet-abcdefgh"
    path.mkdir()
    with (path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remove_abandoned()
        assert path.exists()
    remove_abandoned()
    assert not path.exists()


def test_start_without_a_temporary_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A temporary directory that does not exist stops nobody here."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    remove_abandoned()
