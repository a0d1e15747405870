"""The process that reads a data set: whatever it does is one line, and its memory and time are bounded."""

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sut import dataset, dataset_process
from sut.dataset_process import read_in_process
from sut.prompt_columns import UnreadableError
from tests.sources import ROOT
from tests.sut.dataset_files import PARQUET, PICKLE

# Reads a file under a smaller limit than the product's, so that the test's file is small. A file that is read
# gives the largest resident memory in kilobytes.
READ_WITHIN = """
import re, sys
import sut.dataset_file as reader
reader._LIMIT_BYTES = int(sys.argv[1]) << 20
code = reader.main(sys.argv[2:])
if code:
    sys.exit(code)
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
"""


def refusal(path: Path) -> str:
    """Load a file that must be refused; returns the reason without flag and file."""
    with pytest.raises(ValueError) as caught:
        dataset.load(path)
    flag, _, reason = str(caught.value).partition(f" {path}: ")
    assert flag == "--input-file"
    assert "\n" not in reason
    return reason


def write_zeros(path: Path, num_rows: int, prompt_len: int) -> Path:
    """Write prompts of zeros; a few kilobytes, whatever their length."""
    zeros = pa.array(np.zeros(num_rows * prompt_len, np.int32))
    offsets = np.arange(num_rows + 1, dtype=np.int32) * prompt_len
    pq.write_table(pa.table({"tok_input": pa.ListArray.from_arrays(pa.array(offsets), zeros)}), path)
    return path


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("SIGSEGV", "is damaged or hostile: reading it ended the process with SIGSEGV"),
        ("SIGABRT", "is damaged or hostile: reading it ended the process with SIGABRT"),
        ("SIGKILL", "is damaged or hostile: reading it ended the process with SIGKILL"),
        ("traceback", "is damaged or hostile: reading it ended the process with exit code 1"),
        ("speaks", "?[2J" + "x" * 496),
        ("hangs", "cannot be read within 1 s"),
        ("stays", "cannot be read within 1 s"),
    ],
)
def test_whatever_the_process_does_is_one_line(
    monkeypatch: pytest.MonkeyPatch, how: str, reason: str
) -> None:
    """A crash, a long refusal behind other lines and a process that does not end are one line each."""
    monkeypatch.setattr(dataset_process, "_MODULE", "tests.sut.ending_reader")
    monkeypatch.setattr(dataset_process, "_START_S", 1)
    monkeypatch.setattr(dataset_process, "_END_S", 1 if how == "stays" else 30)
    begin = time.monotonic()
    with pytest.raises(UnreadableError) as caught:
        read_in_process(Path(how), None, timeout_s=1 if how in ("hangs", "stays") else 60)
    assert str(caught.value) == reason
    assert time.monotonic() - begin < 120


def test_nine_bytes_of_pickle_take_no_gigabytes(tmp_path: Path) -> None:
    """A pickle whose memo index asks for 4.3 GB is refused with the limit."""
    content = pickle.PROTO + b"\x02" + pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\x0f" + pickle.STOP
    assert len(content) == 9
    (tmp_path / PICKLE).write_bytes(content)
    reason = "needs more than 1.0 GiB of memory to read, the limit for its size"
    assert refusal(tmp_path / PICKLE) == reason


def read_within(limit_mib: int, path: Path, num_rows: int) -> tuple[int, str]:
    """Run the reader under a limit; returns its exit code and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", READ_WITHIN, str(limit_mib), str(path), str(num_rows)],
        cwd=ROOT,
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_small_parquet_file_takes_no_gigabytes(tmp_path: Path) -> None:
    """A parquet file that unpacks to more than the limit, here 0.1 GiB, is refused with the limit."""
    path = write_zeros(tmp_path / PARQUET, 1, 20_000_000)
    assert path.stat().st_size < 100_000
    reason = "needs more than 0.1 GiB of memory to read, the limit for its size"
    assert read_within(100, path, 1) == (2, reason)


def test_one_sample_takes_the_memory_of_one(tmp_path: Path) -> None:
    """Reading one row of 100 in one row group does not take the memory of the whole column."""
    path = write_zeros(tmp_path / PARQUET, 100, 100_000)
    (one_code, one_kb), (all_code, all_kb) = (read_within(1024, path, num_rows) for num_rows in (1, 100))
    assert (one_code, all_code) == (0, 0)
    # The whole column is 40 MB of int32, and is copied at least once.
    assert int(all_kb) - int(one_kb) > 60_000
