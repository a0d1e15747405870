"""Answers are kept: exact contents, whatever ends the run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coordinator.recording import arrow_files
from coordinator.recording.arrow_files import PARTIAL_NAME, PARTIAL_SCHEMA, STREAM_SCHEMA
from coordinator.recording.outputs import BATCH_TOKENS
from coordinator.recording.run_dir import RESERVED_NAME, release, reserve
from tests import fleet
from tests.coordinator.recording.answers import (
    EMPTY,
    answer,
    columns,
    long_columns,
    new_outputs,
    salvaged,
    streamed,
)


def refuse(reason: str) -> None:
    """Stand for the end of the run where nothing may fail."""
    raise AssertionError(reason)


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait up to 20 s."""
    deadline_s = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_flushed_answers_are_in_the_file(tmp_path: Path) -> None:
    """After flush the file of a run that goes on holds the answers, in order, empty ones included."""
    kept = new_outputs(tmp_path, refuse)
    kept.keep(*columns([3, 7, 1]))
    kept.keep(*columns([12]))
    kept.flush()
    wait_until(lambda: len(streamed(tmp_path)) == 4)
    expected = [(3, [3, 4, 5]), (7, []), (1, [1]), (12, [12, 13, 14, 15, 16])]
    assert expected == streamed(tmp_path)
    kept.flush()
    kept.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_large_batch_needs_no_flush(tmp_path: Path) -> None:
    """256 Ki pending tokens go to the disk by themselves."""
    kept = new_outputs(tmp_path, refuse)
    kept.keep(*long_columns(1, BATCH_TOKENS - 1))
    kept.keep(*columns([8]))
    wait_until(lambda: len(streamed(tmp_path)) == 2)
    (_, tokens), last = streamed(tmp_path)
    assert tokens == long_columns(1, BATCH_TOKENS - 1)[2].tolist()
    assert last == (8, [8])
    kept.discard()


def test_a_failed_run_leaves_one_parquet_file(tmp_path: Path) -> None:
    """Answers written, answers pending and requests in flight are rows, each with its state."""
    kept = new_outputs(tmp_path, refuse)
    kept.keep(*columns([3, 7]))
    kept.flush()
    wait_until(lambda: len(streamed(tmp_path)) == 2)
    kept.keep(*columns([9]))
    # Of sample 12 two tokens have come, of 40 none.
    in_flight = (np.array([12, 40]), np.array([2, 0]), np.array([12, 13], np.int32))
    line = kept.salvage(*in_flight, ["partial", "waiting"], 20)
    path = tmp_path / "partial_outputs.parquet"
    assert line == f"{path} holds 3 complete, 1 partial, 1 waiting"
    assert [
        (3, [3, 4, 5], "complete"),
        (7, [], "complete"),
        (9, [9, 10], "complete"),
        (12, [12, 13], "partial"),
        (40, [], "waiting"),
    ] == salvaged(tmp_path)
    assert pq.read_schema(path).types == PARTIAL_SCHEMA.types
    assert list(tmp_path.iterdir()) == [path]


def test_many_batches_are_many_row_groups(tmp_path: Path) -> None:
    """2.5 Mi tokens in ten batches come back exactly, from more than one row group."""
    kept = new_outputs(tmp_path, refuse)
    for sample in range(10):
        kept.keep(*long_columns(sample, BATCH_TOKENS))
    assert "10 complete" in kept.salvage(*EMPTY, [], 20)
    assert pq.ParquetFile(tmp_path / "partial_outputs.parquet").num_row_groups == 3
    expected = [(sample, long_columns(sample, BATCH_TOKENS)[2].tolist(), "complete") for sample in range(10)]
    assert expected == salvaged(tmp_path)


def test_a_run_without_answers_leaves_an_empty_file(tmp_path: Path) -> None:
    """A run that failed before any token still says so: no rows."""
    path = tmp_path / "partial_outputs.parquet"
    assert f"{path} holds no answers" == new_outputs(tmp_path, refuse).salvage(*EMPTY, [], 20)
    assert salvaged(tmp_path) == []


# Keeps ten answers at a time, each batch flushed, until it is killed.
CHILD = """
import pathlib, sys, time
from tests.coordinator.recording.answers import columns, new_outputs
kept = new_outputs(pathlib.Path(sys.argv[1]), lambda reason: sys.exit(reason))
for first in range(0, 10**6, 10):
    kept.keep(*columns(list(range(first, first + 10))))
    kept.flush()
    time.sleep(0.0005)
"""


def test_a_killed_writer_leaves_a_readable_file(tmp_path: Path) -> None:
    """After kill -9 amid writing the file holds whole batches in order, from the first answer on."""
    process = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], cwd=fleet.ROOT)
    try:
        path = tmp_path / "outputs.arrows"
        wait_until(lambda: path.exists() and path.stat().st_size > 50_000)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    rows = streamed(tmp_path)
    assert len(rows) >= 100
    assert len(rows) % 10 == 0
    assert rows == [(sample, answer(sample)) for sample in range(len(rows))]


def test_a_torn_end_costs_its_batch_alone(tmp_path: Path) -> None:
    """A file cut at any byte gives the batches before the cut, and no error."""
    kept = new_outputs(tmp_path, refuse)
    for first in (0, 10, 20):
        kept.keep(*columns(list(range(first, first + 10))))
        kept.flush()
    wait_until(lambda: len(streamed(tmp_path)) == 30)
    path = tmp_path / "outputs.arrows"
    whole = path.read_bytes()
    cuts = set()
    for num_bytes in range(0, len(whole), 8):
        path.write_bytes(whole[: num_bytes + 3])
        rows = streamed(tmp_path)
        assert rows == [(sample, answer(sample)) for sample in range(len(rows))]
        cuts.add(len(rows))
    assert cuts == {0, 10, 20}
    kept.discard()


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    """A file that is not there is an error, not an empty run."""
    with pytest.raises(FileNotFoundError):
        streamed(tmp_path)


def test_a_file_that_was_cut_is_kept_beside_the_rest(tmp_path: Path) -> None:
    """Where the stream has fewer answers than were written, the line says so and both files stay."""
    kept = new_outputs(tmp_path, refuse)
    kept.keep(*columns([3, 4]))
    kept.flush()
    wait_until(lambda: len(streamed(tmp_path)) == 2)
    kept.keep(*columns([5]))
    kept.flush()
    wait_until(lambda: len(streamed(tmp_path)) == 3)
    stream, path = tmp_path / "outputs.arrows", tmp_path / "partial_outputs.parquet"
    os.truncate(stream, stream.stat().st_size - 8)
    line = kept.salvage(*EMPTY, [], 20)
    assert line == f"{path} holds 2 complete of 3: both it and {stream} are kept"
    assert {stream, path} == set(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["run-1T13:54", "exp:1", "file:a", "s3:a", "a%20b?c#d", "a b\nc"])
def test_any_directory_name_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A relative directory whose name reads as a URI: both files are written to it, and read from it."""
    monkeypatch.chdir(tmp_path)
    directory = Path(name)
    directory.mkdir()
    kept = new_outputs(directory, refuse)
    kept.keep(*columns([3]))
    line = kept.salvage(*EMPTY, [], 10.0)
    assert f"{directory / PARTIAL_NAME} holds 1 complete" == line
    table = pq.read_table(pa.BufferReader((tmp_path / name / PARTIAL_NAME).read_bytes()))
    assert [{"sample": 3, "tokens": [3, 4, 5], "state": "complete"}] == table.to_pylist()


def test_any_error_of_the_conversion_is_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the library, not of the disk: the line quotes it, at once, and the stream is kept."""
    monkeypatch.setattr(arrow_files.pq, "ParquetWriter", lambda *_, **__: int("no number"))
    kept = new_outputs(tmp_path, refuse)
    kept.keep(*columns([3]))
    line = kept.salvage(*EMPTY, [], 10.0)
    assert "keeps 1 complete answers: partial_outputs.parquet: ValueError(" in line
    assert "'no number'" in line
    assert [(3, [3, 4, 5])] == streamed(tmp_path)


def test_a_second_run_does_not_write_over_the_first(tmp_path: Path) -> None:
    """A directory that holds such a file already is refused."""
    kept = new_outputs(tmp_path, refuse)
    with pytest.raises(FileExistsError):
        new_outputs(tmp_path, refuse)
    kept.discard()


def test_the_batch_of_no_answers_is_none(tmp_path: Path) -> None:
    """A flush without answers writes nothing but the file's head, which reads as no answers."""
    kept = new_outputs(tmp_path, refuse)
    kept.flush()
    assert streamed(tmp_path) == []
    assert pa.ipc.open_stream((tmp_path / "outputs.arrows").read_bytes()).schema == STREAM_SCHEMA
    kept.discard()


def test_reserved_space_is_there_and_given_back(tmp_path: Path) -> None:
    """1 MiB of blocks, not a hole; release deletes it, and again is no error."""
    reserve(tmp_path)
    assert (tmp_path / RESERVED_NAME).stat().st_blocks * 512 >= 1 << 20
    release(tmp_path)
    release(tmp_path)
    assert list(tmp_path.iterdir()) == []
