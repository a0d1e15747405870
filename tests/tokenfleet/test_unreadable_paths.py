"""Paths that the file system refuses: one line that names the path, exit code 2, no traceback."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from sut.results.comparison.compare_command import main as compare
from tests.full_disk import files_of_at_most
from tests.sut.comparison.run_files import server_record, write_run
from tests.sut.report import run_files
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


@contextlib.contextmanager
def closed(directory: Path, mode: int) -> Iterator[None]:
    """Take permissions of a directory away, as any user but root."""
    directory.chmod(mode)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        directory.chmod(0o755)


def test_a_run_that_cannot_be_read_is_not_left_out_of_a_comparison(
    open_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two repeats, one of them unreadable for this user: the side is refused, not shown by the other."""
    for name in ("a/0", "a/1", "b/0", "b/1"):
        write_run(open_directory / name, server_record(name, 0, 50.0))
    with closed(open_directory / "b" / "1", 0):
        assert 2 == compare([str(open_directory / side) for side in "ab"])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"report compare: [Errno 13] Permission denied: '{open_directory / 'b' / '1'}'" == line


# Less than any output below, and enough for what reads a data set.
FULL_BYTES = 2000


@pytest.mark.parametrize(
    ("error", "obstacle"),
    [
        ("[Errno 13] Permission denied", lambda outputs: closed(outputs, 0o555)),
        ("[Errno 27] File too large", lambda _: files_of_at_most(FULL_BYTES)),
    ],
    ids=["denied", "full"],
)
@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("report {d}/report --output page.html", "report: {error}: '{path}'"),
        ("report compare {d}/a {d}/b --json c.json", "report compare: --json {path}: {reason}"),
        ("report compare {d}/a {d}/b --html c.html", "report compare: --html {path}: {reason}"),
        ("spans {d}/run --output spans.jsonl", "spans: --output {path}: {reason}"),
        ("synthetic dataset --num-samples 1 --output x.parquet", "--output {path}: {reason}"),
        ("synthetic dataset --num-samples 1 --output x.pkl", "--output {path}: {reason}"),
        ("synthetic answers --input-file {d}/data.parquet --output x", "--output {path}: {reason}"),
        ("synthetic checkpoint --output model", "--output {path}: {reason}"),
    ],
)
def test_an_output_that_cannot_be_written_is_named_as_the_user_named_it(
    open_directory: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    line: str,
    error: str,
    obstacle: Callable[[Path], AbstractContextManager[None]],
) -> None:
    """A directory without write permission and a full disk: no temporary name is shown, or is left."""
    for side in "ab":
        write_run(open_directory / side, server_record(side, 0, 50.0))
    # Without its requests no chart is drawn.
    write_run(open_directory / "report", run_files.run_json())
    run_files.write_run(open_directory / "run")
    few_tokens = ["--num-samples=1", "--mean-prompt-len=2", "--max-prompt-len=2"]
    assert 0 == main(["synthetic", "dataset", *few_tokens, f"--output={open_directory}/data.parquet"])
    *words, name = command.format(d=open_directory).split()
    # Another user may not be able to import what only a command that succeeds imports.
    assert 0 == main([*words, str(open_directory / name)])
    capsys.readouterr()
    outputs = open_directory / "outputs"
    outputs.mkdir()
    path = outputs / name
    with obstacle(outputs):
        assert 2 == main([*words, str(path)])
    expected = line.format(path=path, error=error, reason=error.partition("] ")[2])
    assert ([expected], []) == (capsys.readouterr().err.splitlines(), [*outputs.iterdir()])
