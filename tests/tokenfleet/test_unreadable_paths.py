"""Paths that the file system refuses: one line that names the path, exit code 2, no traceback."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sut.results.comparison.compare_command import main as compare
from tests.sut.comparison.run_files import server_record, write_run
from tokenfleet.cli import SUBCOMMANDS, main

# Longer than the name of a file may be, so that even looking for it is an error.
TOO_LONG = "a" * 300
NOBODY = 65534


@pytest.mark.parametrize(
    "argv",
    [
        ["accuracy", "--mlperf-log=x", "--reference-data=x", "--tokenizer=x", f"--output-dir={TOO_LONG}"],
        ["checkpoint-hash", f"--model={TOO_LONG}"],
        ["compliance", f"{TOO_LONG}/TEST09"],
        ["plan", f"--json={TOO_LONG}"],
        ["report", TOO_LONG],
        ["report", "compare", TOO_LONG, "b"],
        ["spans", ".", f"--output={TOO_LONG}"],
        ["submission", f"--results={TOO_LONG}", "--output=t", "--submitter=a", "--system=b"],
    ],
    ids=lambda argv: " ".join(argv[:2] if argv[1] == "compare" else argv[:1]),
)
def test_a_path_that_cannot_be_looked_at_is_one_line(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command that reads the files of runs, of a model, or writes one file."""
    monkeypatch.chdir(tmp_path)
    assert 2 == main(argv)
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert ("", True, True) == (captured.out, TOO_LONG in line, "File name too long" in line)


@pytest.mark.parametrize(
    "argv",
    [
        ["checkpoint-hash", "--model=no\nmodel"],
        ["compliance", "no\nrun/TEST09"],
        ["probe", "no\nhost:1", "two:2"],
        ["report", "no\nrun"],
        ["report", "compare", "no\nrun", "b"],
        ["spans", "no\nrun", "--output=spans.json"],
        ["submission", "--results=no\nrun", "--output=t", "--submitter=a", "--system=b"],
        ["synthetic", "dataset", "--output=no\nfolder/file", "--num-samples=1"],
    ],
    ids=lambda argv: " ".join(argv[:2] if argv[1] == "compare" else argv[:1]),
)
def test_a_line_end_in_a_name_makes_no_second_line(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name may also hold a terminal's commands: what is unprintable is shown as `?`."""
    monkeypatch.chdir(tmp_path)
    assert 2 == SUBCOMMANDS[argv[0]].run(argv[1:])
    (line,) = capsys.readouterr().err.splitlines()
    assert "no?" in line


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Give a directory that every user may look into, unlike pytest's own."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def test_a_run_that_cannot_be_read_is_not_left_out_of_a_comparison(
    open_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two repeats, one of them unreadable for this user: the side is refused, not shown by the other."""
    for name in ("a/0", "a/1", "b/0", "b/1"):
        write_run(open_directory / name, server_record(name, 0, 50.0))
    (open_directory / "b" / "1").chmod(0)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        assert 2 == compare([str(open_directory / side) for side in "ab"])
    finally:
        if is_root:
            os.seteuid(0)
        (open_directory / "b" / "1").chmod(0o755)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"report compare: [Errno 13] Permission denied: '{open_directory / 'b' / '1'}'" == line
