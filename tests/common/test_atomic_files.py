"""Files are replaced together, and the last one stands for all."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.atomic_files import named_errors, partial_path, replace_files, whole_file
from tests.full_disk import files_of_at_most

OLD = {"text": "old text", "report": "old report"}


def content(directory: Path) -> dict[str, str]:
    """Read every file of a directory."""
    return {path.name: path.read_text() for path in directory.iterdir()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Write an earlier report."""
    replace_files(tmp_path, OLD)
    assert OLD == content(tmp_path)
    return tmp_path


def test_a_file_without_content_is_removed(directory: Path) -> None:
    """A report that has no text leaves no earlier one beside it."""
    replace_files(directory, {"text": None, "report": "new"})
    assert {"report": "new"} == content(directory)


def test_a_full_disk_changes_nothing(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The earlier files stay as they were, and no partial file is left."""
    sync = os.fsync

    def fail(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("report.partial"):
            raise OSError(28, "No space left on device")
        sync(fd)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"No space left on device: '{directory}/report'"):
        replace_files(directory, {"text": "new text", "report": "new report"})
    assert OLD == content(directory)


@pytest.mark.parametrize("num_moves", [0, 1])
def test_a_process_that_is_killed_leaves_no_report_without_its_text(
    directory: Path, monkeypatch: pytest.MonkeyPatch, num_moves: int
) -> None:
    """The report, which says that a run is graded, is put in place last, and taken away first."""
    move, moves = os.replace, []

    def kill(source: Path, target: Path) -> None:
        if len(moves) == num_moves:
            raise KeyboardInterrupt
        moves.append(target)
        move(source, target)

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        replace_files(directory, {"text": "new text", "report": "new report"})
    assert "report" not in content(directory)


def test_a_single_file_is_never_away(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed leaves the earlier file."""

    def kill(*_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", kill)
    with pytest.raises(KeyboardInterrupt):
        replace_files(directory, {"report": "new report"})
    assert OLD == content(directory)


def test_two_writers_of_one_file_leave_one_whole_text(directory: Path) -> None:
    """Each writer's text is whole when its call returns, and no call fails because of another one."""
    texts = [letter * 100_000 for letter in "abcd"]
    with ThreadPoolExecutor(len(texts)) as pool:
        for _ in range(10):
            list(pool.map(lambda text: replace_files(directory, {"report": text}), texts))
            assert (directory / "report").read_text() in texts
    assert ["report", "text"] == sorted(path.name for path in directory.iterdir())


def test_a_file_that_does_not_fit_is_named_and_absent(tmp_path: Path) -> None:
    """A full disk names no file: whole_file does, and leaves no part of it."""
    path = tmp_path / "plot.png"
    named = pytest.raises(OSError, match=rf"File too large: '{path}'")
    with named, files_of_at_most(100), whole_file(path) as partial:
        partial.write_bytes(bytes(101))
    assert [] == [*tmp_path.iterdir()]


def test_an_error_names_the_place_of_a_file_not_the_one_where_it_is_written(tmp_path: Path) -> None:
    """Of a file in a directory that is renamed when it is whole; the error of a copy has two names."""
    source, hidden, tree = tmp_path / "log", tmp_path / ".tree.new", tmp_path / "tree"
    source.write_bytes(bytes(101))
    hidden.mkdir()
    with (
        pytest.raises(OSError, match=rf"^\[Errno 27\] File too large: '{tree}/log'$"),
        named_errors(tree, hidden),
        files_of_at_most(100),
    ):
        shutil.copyfile(source, hidden / "log")
    with pytest.raises(FileNotFoundError, match=f"'{tmp_path}/absent'"), named_errors(tree, hidden):
        shutil.copyfile(tmp_path / "absent", hidden / "log")


def test_what_has_the_name_of_the_partial_file_is_not_written_to(tmp_path: Path) -> None:
    """A file that a link names stays as it was; a FIFO stops nobody."""
    other, path = tmp_path / "other", tmp_path / "spans.jsonl"
    other.write_text("mine")
    for make in (lambda link: link.symlink_to(other), os.mkfifo):
        make(partial_path(path))
        with whole_file(path) as partial, partial.open("w") as file:
            file.write("ours")
        assert (("mine", "ours"), False) == ((other.read_text(), path.read_text()), partial.exists())
