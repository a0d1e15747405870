"""Answers on a disk that is full, gone, slow or hung: what is kept, and what is said of the rest."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from coordinator.recording import outputs, run_dir
from coordinator.recording.arrow_files import DeadlinePassed, StreamFile, write_partial
from coordinator.recording.outputs import Outputs
from coordinator.recording.run_dir import release, reserve
from tests.coordinator.recording.answers import EMPTY, columns, long_columns, new_outputs, salvaged, streamed
from tests.coordinator.recording.test_outputs import refuse, wait_until

# Tokens of an answer of 64 KiB: a disk of 1 MiB takes 15 and the file's head.
LONG = 16 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk of its own")
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tokenfleet-test", str(path)]
    if subprocess.run(mount, timeout=60, check=False).returncode:
        pytest.skip("this root may not mount")
    yield path
    # Lazy: a file may still be open.
    subprocess.run(["umount", "-l", str(path)], timeout=60, check=True)


def fill(kept: Outputs, failed: Callable[[], bool]) -> int:
    """Keep long answers until the disk is full; returns how many."""
    num = 0
    while not failed():
        kept.keep(*long_columns(num, LONG))
        kept.flush()
        num += 1
        wait_until(lambda num=num: failed() or len(streamed(kept._run_dir)) == num)
    return num


def test_a_full_disk_is_told_once_and_costs_no_written_answer(disk: Path) -> None:
    """On a full disk the reason names file and errno text, and what had been written stays, readable."""
    reasons: list[str] = []
    kept = new_outputs(disk, reasons.append)
    num = fill(kept, lambda: bool(reasons))
    assert num == 16
    kept.keep(*columns([3, 4]))
    kept.flush()
    line = kept.salvage(*columns([5]), ["partial"], 20)
    stream = disk / "outputs.arrows"
    assert reasons == [f"{stream}: No space left on device"]
    # The conversion fails, but the two short answers fit where the long one did not.
    assert [stream] == list(disk.iterdir())
    expected = [(sample, long_columns(sample, LONG)[2].tolist()) for sample in range(15)]
    assert [*expected, (3, [3, 4, 5]), (4, [4, 5, 6, 7])] == streamed(disk)
    # Nothing of what did not fit is left: a reader that forgives no torn end reads it.
    assert 17 == pa.ipc.open_stream(stream.read_bytes()).read_all().num_rows
    assert line == (
        f"{stream} keeps 17 complete answers: partial_outputs.parquet: No space left on device; "
        "1 complete answers and 1 in flight could not be written"
    )


def test_a_disk_with_room_again_gets_everything(disk: Path) -> None:
    """What did not fit waits in memory and is in the parquet file when there is room at the end."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(900 * 1024))
    reasons: list[str] = []
    kept = new_outputs(disk, reasons.append)
    num = fill(kept, lambda: bool(reasons))
    assert num == 2
    kept.keep(*columns([3]))
    ballast.unlink()
    path = disk / "partial_outputs.parquet"
    assert kept.salvage(*EMPTY, [], 20) == f"{path} holds 3 complete"
    long = [(sample, long_columns(sample, LONG)[2].tolist(), "complete") for sample in range(2)]
    assert [*long, (3, [3, 4, 5], "complete")] == salvaged(disk)
    assert [path] == list(disk.iterdir())
    assert len(reasons) == 1


def test_a_full_disk_has_room_for_what_was_reserved(disk: Path) -> None:
    """1 MiB cannot be reserved on a disk of 1 MiB that holds something; less room is an error at once."""
    (disk / "something").write_bytes(b"1")
    with pytest.raises(OSError, match="No space left on device"):
        reserve(disk)
    assert [disk / "something"] == list(disk.iterdir())


def test_run_json_fits_on_a_disk_that_filled_up(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Space reserved at the start is free again after release, though the disk is full."""
    monkeypatch.setattr(run_dir, "RESERVED_BYTES", 256 * 1024)
    reserve(disk)
    kept = new_outputs(disk, lambda _: failed.set())
    failed = threading.Event()
    fill(kept, failed.is_set)
    kept.salvage(*EMPTY, [], 20)
    with pytest.raises(OSError, match="No space left"):
        (disk / "run.json").write_bytes(bytes(128 * 1024))
    release(disk)
    (disk / "run.json").write_bytes(bytes(128 * 1024))


def test_a_removed_file_is_a_failure(tmp_path: Path) -> None:
    """Answers written to a file that someone deleted would be lost: the run is told."""
    reasons: list[str] = []
    kept = new_outputs(tmp_path, reasons.append)
    (tmp_path / "outputs.arrows").unlink()
    kept.keep(*columns([3]))
    kept.flush()
    wait_until(lambda: bool(reasons))
    assert reasons == [f"{tmp_path / 'outputs.arrows'}: No such file or directory"]
    line = kept.salvage(*EMPTY, [], 20)
    assert "partial_outputs.parquet: No such file or directory; 1 complete" in line


def test_more_than_the_bound_is_a_failure_and_the_rest_is_counted(tmp_path: Path) -> None:
    """Answers beyond the bound fail the run once; those within it are kept, those beyond it are told."""
    reasons: list[str] = []
    # Samples 5 and 6: 8 bytes each of sample and count, and 5 and 6 tokens of 4 bytes: 36 and 40.
    kept = new_outputs(tmp_path, reasons.append, max_waiting_bytes=80)
    for sample in (5, 6, 4, 3):
        kept.keep(*columns([sample]))
    assert reasons == [f"{tmp_path / 'outputs.arrows'}: more than 80 bytes of answers wait for the disk"]
    line = kept.salvage(*EMPTY, [], 20)
    assert line.endswith("holds 2 complete; 2 answers found no room in memory")
    assert [5, 6] == [row[0] for row in salvaged(tmp_path)]


def test_what_was_written_waits_no_more(tmp_path: Path) -> None:
    """The bound is on what waits: any number of answers passes one after another."""
    kept = new_outputs(tmp_path, refuse, max_waiting_bytes=80)
    for num in range(20):
        kept.keep(*columns([5]))
        kept.flush()
        wait_until(lambda num=num: kept._waiting_bytes == 0 and len(streamed(tmp_path)) == num + 1)
    kept.discard()


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let every write hang until the test is over; the event says that one does."""
    hanging, over = threading.Event(), threading.Event()
    before = set(threading.enumerate())

    def hang(*_: object) -> None:
        hanging.set()
        over.wait(60)

    monkeypatch.setattr(StreamFile, "write", hang)
    yield hanging
    over.set()
    # A writer that is left would write through the next test's hanging disk.
    for thread in set(threading.enumerate()) - before:
        if thread.name == "outputs":
            thread.join(60)
            assert not thread.is_alive()


def test_a_hung_disk_holds_up_neither_keep_nor_the_exit(tmp_path: Path, hung: threading.Event) -> None:
    """While a write hangs, keep returns, and salvage gives up at its deadline and says what is missing."""
    kept = new_outputs(tmp_path, refuse)
    kept.keep(*columns([3]))
    kept.flush()
    assert hung.wait(60)
    kept.keep(*columns([4, 5]))
    line = kept.salvage(*columns([6]), ["partial"], 0.2)
    assert line == (
        f"{tmp_path / 'outputs.arrows'} keeps 0 complete answers: the disk does not take what is written; "
        "3 complete answers and 1 in flight could not be written"
    )


def test_a_hung_disk_does_not_hold_up_a_good_end(
    tmp_path: Path, hung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Discard gives up on a disk that hangs."""
    monkeypatch.setattr(outputs, "DISCARD_TIMEOUT_S", 0.1)
    kept = new_outputs(tmp_path, refuse)
    kept.keep(*columns([3]))
    kept.flush()
    assert hung.wait(60)
    kept.discard()
    assert kept._thread.is_alive()


def test_a_conversion_that_is_too_slow_leaves_nothing_half_done(tmp_path: Path) -> None:
    """After the deadline there is no parquet file, nor a part of one, and the stream is as it was."""
    kept = new_outputs(tmp_path, refuse)
    kept.keep(*columns([3]))
    kept.flush()
    wait_until(lambda: len(streamed(tmp_path)) == 1)
    stream = tmp_path / "outputs.arrows"
    with pytest.raises(DeadlinePassed):
        write_partial(tmp_path / "partial_outputs.parquet", stream, [], time.monotonic_ns())
    assert [stream] == list(tmp_path.iterdir())
    assert streamed(tmp_path) == [(3, [3, 4, 5])]
    line = kept.salvage(*EMPTY, [], 0)
    assert line.startswith(f"{stream} keeps 1 complete answers: ")
    kept.discard()
