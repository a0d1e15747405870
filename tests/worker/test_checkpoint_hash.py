"""`tokenfleet checkpoint-hash`, and how a worker uses what it stores."""

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from tokenfleet.cli import main
from worker import checkpoint_hash
from worker.engines.model.weights_sha256 import SUMS_FILE, read_weights_sha256

SHARDS = {"model-1.safetensors": b"first shard", "model-2.safetensors": b"second shard"}
TIME_NS = 1_700_000_000_123_456_789


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write two weight files with a known time; only their bytes count here."""
    for name, content in SHARDS.items():
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(TIME_NS, TIME_NS))
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def test_the_hashes_are_those_of_sha256sum(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file has its line, the hash of all is that of these lines, and the worker reads the same hash."""
    assert 0 == main(["checkpoint-hash", "--model", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}" for name, content in SHARDS.items()]
    whole = hashlib.sha256("".join(f"{line}\n" for line in sums).encode()).hexdigest()
    assert [*sums, f"{whole}  all weight files of {folder}"] == lines
    assert whole == read_weights_sha256(folder, "auto")
    stored = json.loads((folder / SUMS_FILE).read_text())["files"]["model-2.safetensors"]
    assert {"size": 12, "mtime_ns": TIME_NS, "sha256": sums[1][:64]} == stored
    assert sorted([*SHARDS, "config.json", SUMS_FILE]) == sorted(path.name for path in folder.iterdir())


def test_without_a_stored_hash_there_is_none(folder: Path) -> None:
    """A worker whose weights nobody has hashed reports an empty hash."""
    assert "" == read_weights_sha256(folder, "auto")


def grow(folder: Path) -> None:
    """Append a byte to the second file."""
    (folder / "model-2.safetensors").write_bytes(b"second shard.")


def touch(folder: Path) -> None:
    """Change the time of the second file by one nanosecond."""
    os.utime(folder / "model-2.safetensors", ns=(TIME_NS, TIME_NS + 1))


def swap(folder: Path) -> None:
    """Give each file the other's name."""
    os.rename(folder / "model-1.safetensors", folder / "x")
    os.rename(folder / "model-2.safetensors", folder / "model-1.safetensors")
    os.rename(folder / "x", folder / "model-2.safetensors")


def remove(folder: Path) -> None:
    """Remove the second file."""
    (folder / "model-2.safetensors").unlink()


def add(folder: Path) -> None:
    """Add a third file."""
    (folder / "model-3.safetensors").write_bytes(b"x")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (grow, "model-2.safetensors has 13 bytes, not 12"),
        (touch, f"model-2.safetensors was modified at {TIME_NS + 1} ns, not at {TIME_NS}"),
        (swap, "model-1.safetensors has 12 bytes, not 11"),
        (remove, "model-2.safetensors is gone"),
        (add, "model-3.safetensors was added"),
    ],
)
def test_a_stale_hash_is_refused(folder: Path, change: object, why: str) -> None:
    """Any change of the files since they were hashed is named, with the command that hashes them again."""
    assert callable(change)
    assert 0 == checkpoint_hash.main(["--model", str(folder)])
    change(folder)
    with pytest.raises(ValueError) as caught:
        read_weights_sha256(folder, "auto")
    again = f"run `tokenfleet checkpoint-hash --model {folder}` again or remove the file"
    assert f"--model: {folder / SUMS_FILE} is stale: {why}; {again}" == str(caught.value)
    assert 0 == checkpoint_hash.main(["--model", str(folder)])
    assert 64 == len(read_weights_sha256(folder, "auto"))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"files": 5}', '{"files": {"a": {"size": 1}}}', "[" * 9000]
)
def test_a_file_of_another_kind_is_named(folder: Path, content: str) -> None:
    """A file of that name which this program did not write is refused in one line."""
    (folder / SUMS_FILE).write_text(content)
    with pytest.raises(ValueError, match=rf"^--model: {folder / SUMS_FILE} was not written by tokenfleet"):
        read_weights_sha256(folder, "auto")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "--model"),
        (["--model", "/no/such"], "--model: no directory /no/such"),
        (["--model", "{empty}"], "--model: no weights in {empty}"),
        (["--model", "{empty}", "--strange"], "--strange"),
    ],
)
def test_bad_input_is_one_line(
    argv: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be hashed ends with exit code 2 and one line."""
    empty = tmp_path / "empty"
    empty.mkdir()
    assert 2 == checkpoint_hash.main([word.format(empty=empty) for word in argv])
    out, err = capsys.readouterr()
    assert ("", 1) == (out, err.count("\n"))
    assert err.startswith("checkpoint-hash: ")
    assert says.format(empty=empty) in err


def test_a_directory_that_cannot_be_written_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for the hashes nothing is left behind but one line."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(folder / SUMS_FILE))

    monkeypatch.setattr("common.atomic_files.os.replace", full)
    assert 2 == checkpoint_hash.main(["--model", str(folder)])
    assert (
        f"checkpoint-hash: --model: {folder / SUMS_FILE}: No space left on device\n"
        == capsys.readouterr().err
    )
    assert sorted([*SHARDS, "config.json"]) == sorted(path.name for path in folder.iterdir())


def test_a_file_that_changes_while_it_is_read_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A download that is still under way is not hashed."""
    lock, changed = threading.Lock(), []
    monkeypatch.setattr("worker.engines.model.weights_sha256.BLOCK_BYTES", 4)
    real = hashlib.sha256

    def changing(*args: bytes) -> object:
        with lock:
            if not changed:
                changed.append(1)
                with (folder / "model-1.safetensors").open("ab") as file:
                    file.write(b"x")
        return real(*args)

    monkeypatch.setattr("worker.engines.model.weights_sha256.hashlib.sha256", changing)
    assert 2 == checkpoint_hash.main(["--model", str(folder)])
    assert "changed while it was read" in capsys.readouterr().err
