"""Sockets of vLLM: a temporary directory that cannot hold them is refused, and none outlives its worker."""

import os
import tempfile
from pathlib import Path

import pytest

from common.flags import FlagError
from tests.forked import end_of
from worker.__main__ import main
from worker.engines.vllm.ipc_directory import VARIABLE, IpcDirectory, check_ipc_directory


def directory_of_len(parent: Path, length: int) -> Path:
    """Make a directory whose path has this length."""
    path = parent / ("x" * (length - len(str(parent)) - 1))
    path.mkdir()
    assert length == len(str(path))
    return path


@pytest.fixture
def short() -> Path:
    """Make a directory with a short path; pytest's own are too long."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)


@pytest.mark.parametrize("flags", ["", "--replicas 2"], ids=["worker", "node"])
def test_long_temporary_directory_is_refused_before_loading(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    """A path as long as Slurm's: one line with variable, length and bound, exit code 2, nothing starts."""
    directory = directory_of_len(short, 100)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TMPDIR", str(directory))
    ended = end_of(main, ["--model", str(tmp_path), *flags.split()], tmp_path)
    line = f"worker: TMPDIR {directory}: has 100 bytes; vLLM's sockets need a path of at most 70\n"
    assert (2, "", line) == (ended.code, ended.stdout, ended.stderr)


def test_longest_temporary_directory_is_accepted(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """70 bytes are: 107 for a socket's path, less a slash and a UUID of 36 characters."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(directory_of_len(short, 70)))
    check_ipc_directory()
    monkeypatch.setattr(tempfile, "tempdir", str(directory_of_len(short, 71)))
    with pytest.raises(FlagError, match="has 71 bytes"):
        check_ipc_directory()


def test_users_own_directory_is_checked(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If VLLM_RPC_BASE_PATH is set, it counts, and the line names it."""
    monkeypatch.setenv(VARIABLE, str(directory_of_len(short, 80)))
    with pytest.raises(FlagError, match=r"^VLLM_RPC_BASE_PATH .*: has 80 bytes; .* at most 70$"):
        check_ipc_directory()
    monkeypatch.setenv(VARIABLE, str(short / "gone"))
    with pytest.raises(FlagError, match=f"^VLLM_RPC_BASE_PATH {short}/gone: no writable directory$"):
        check_ipc_directory()


def test_sockets_lie_in_a_directory_of_the_engine(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory exists while the engine does, and the variable is set for vLLM's processes."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    directory = IpcDirectory(is_local=True)
    (path,) = short.iterdir()
    assert str(path) == os.environ[VARIABLE]
    directory.close()
    assert ([], False) == (list(short.iterdir()), VARIABLE in os.environ)


@pytest.mark.parametrize("case", ["another machine", "user's own", "too long"])
def test_no_directory_where_it_would_not_work(
    short: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """The variable reaches other machines; the user's own counts; 51 + 20 bytes are too long for 70."""
    monkeypatch.delenv(VARIABLE, raising=False)
    place = directory_of_len(short, 51) if case == "too long" else short
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    if case == "user's own":
        monkeypatch.setenv(VARIABLE, "/tmp")
    before = os.environ.get(VARIABLE)
    directory = IpcDirectory(is_local=case != "another machine")
    assert (before, []) == (os.environ.get(VARIABLE), [p for p in place.iterdir() if p.name != place.name])
    directory.close()
    assert before == os.environ.get(VARIABLE)
