"""Data set files: both formats are read whatever their name, and what is no data set says what it is."""

import bz2
import gzip
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sut.dataset_file import open_regular, read
from sut.prompt_columns import UnreadableError
from tests.sut.dataset_files import BOTH, PARQUET, PICKLE, PROMPTS, check_prompts, read_here, refusal, write


@pytest.mark.parametrize("name", BOTH)
def test_the_token_column_is_the_older_one(tmp_path: Path, name: str) -> None:
    """tok_input is read before input_tokens; without either the message lists the columns found."""
    frame = pd.DataFrame({"input_tokens": [[1]] * 3, "tok_input": PROMPTS, "prompt": ["a", "b", None]})
    path = tmp_path / name
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_pickle(path)
    check_prompts(path)
    reason = "has no column tok_input or input_tokens; columns found: tokens"
    assert refusal(write(path, PROMPTS, "tokens")) == reason


@pytest.mark.parametrize("kind", [pa.list_, pa.large_list])
@pytest.mark.parametrize("value", [pa.int32(), pa.int64(), pa.uint16(), pa.uint64()], ids=str)
@pytest.mark.parametrize("row_group_size", [1, 2, 3])
def test_every_arrow_list_of_integers_is_read(
    tmp_path: Path, kind: Callable[[pa.DataType], pa.DataType], value: pa.DataType, row_group_size: int
) -> None:
    """Lists and large lists of any integer, in one or several chunks, give the same tokens."""
    table = pa.table({"tok_input": pa.array(PROMPTS, kind(value))})
    pq.write_table(table, tmp_path / PARQUET, row_group_size=row_group_size)
    check_prompts(tmp_path / PARQUET)


def test_other_columns_are_not_read(tmp_path: Path) -> None:
    """A parquet file is read even if a column that is not used is damaged."""
    path = tmp_path / PARQUET
    pq.write_table(pa.table({"text": ["abc"] * 3, "tok_input": PROMPTS}), path)
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    begin = column.dictionary_page_offset
    content[begin : begin + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(content)
    with pytest.raises(OSError):
        pq.read_table(path)
    check_prompts(path)


@pytest.mark.parametrize(
    ("names", "cells", "reason"),
    [
        (BOTH, [], "has 0 rows"),
        (BOTH, [[1], []], "row 1: prompt is empty"),
        (BOTH, [[], []], "row 0: prompt is empty"),
        (BOTH, [[1, 2], [3, -1]], "row 1: token -1 is outside 0 <= id < 2147483648"),
        (BOTH, [[1], [2], [2**31]], "row 2: token 2147483648 is outside 0 <= id < 2147483648"),
        (BOTH, [[True]], "row 0: token True is bool, not an integer"),
        ([PARQUET], [[1], None], "row 1: prompt is None, not a list of token ids"),
        ([PARQUET], [1, 2], "row 0: prompt 1 is int64, not a list of token ids"),
        ([PARQUET], [[1.0, 2.0]], "row 0: token 1.0 is double, not an integer"),
        ([PARQUET], [[[1]]], "row 0: token [1] is list<element: int64>, not an integer"),
        ([PARQUET], [[1, 2], [3, None]], "row 1: token None is not an integer"),
        ([PICKLE], [[1], None], "row 1: prompt None is not a list of token ids"),
        ([PICKLE], [[1], float("nan")], "row 1: prompt nan is not a list of token ids"),
        ([PICKLE], ["1 2"], "row 0: prompt '1 2' is not a list of token ids"),
        ([PICKLE], [[1], [2, 1.0]], "row 1: token 1.0 is float, not an integer"),
        ([PICKLE], [[1, True]], "row 0: token True is bool, not an integer"),
        ([PICKLE], [[1, None]], "row 0: token None is NoneType, not an integer"),
        ([PICKLE], [np.array([[1]])], "row 0: token [1] is list, not an integer"),
        ([PICKLE], [np.array([1.0])], "row 0: token 1.0 is float, not an integer"),
        ([PICKLE], [[1], [2**80]], f"row 1: token {2**80} is outside 0 <= id < 2147483648"),
        ([PICKLE], [np.array([2**64 - 1])], f"row 0: token {2**64 - 1} is outside 0 <= id < 2147483648"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, names: list[str], cells: object, reason: str) -> None:
    """A row that is not a prompt is named with its value and the bound, or its type in the file."""
    for name in names:
        assert refusal(write(tmp_path / name, cells)) == reason


@pytest.mark.parametrize("name", [*BOTH, "set.bin"])
def test_files_that_are_no_data_set_are_refused(tmp_path: Path, name: str) -> None:
    """A missing file, a directory, an empty file and a file of another format give different lines."""
    path = tmp_path / name
    assert refusal(path) == "cannot be read: No such file or directory"
    assert refusal(tmp_path) == "cannot be read: Is a directory"
    path.write_bytes(b"")
    assert refusal(path) == "is empty"
    path.write_bytes(b"neither one nor the other\n")
    reason = "is neither parquet nor a pickled DataFrame: begins with b'neither one nor '"
    assert refusal(path) == reason


@pytest.mark.parametrize("name", BOTH)
def test_truncated_files_are_refused(tmp_path: Path, name: str) -> None:
    """A file truncated at any of many lengths is refused."""
    path = write(tmp_path / name, PROMPTS)
    for num_bytes in range(path.stat().st_size - 1, 0, -37):
        os.truncate(path, num_bytes)
        assert refusal(path).startswith("is not a readable ")


def test_a_file_is_what_it_begins_with(tmp_path: Path) -> None:
    """Parquet under the name of a pickle, and a pickle under that of parquet, are read."""
    check_prompts(write(tmp_path / PARQUET, PROMPTS).rename(tmp_path / "other.pkl"))
    check_prompts(write(tmp_path / PICKLE, PROMPTS).rename(tmp_path / "other.parquet"))


@pytest.mark.parametrize(("name", "compress"), [("gzip", gzip), ("bzip2", bz2), ("xz", lzma)])
def test_compressed_pickles_are_read(tmp_path: Path, name: str, compress: Any) -> None:
    """A pickle in gzip, bzip2 or xz is read; a damaged one, and compressed parquet, are refused by name."""
    path = tmp_path / "set.pkl.compressed"
    content = compress.compress(write(tmp_path / PICKLE, PROMPTS).read_bytes())
    path.write_bytes(content)
    check_prompts(path)
    path.write_bytes(content[:-20])
    assert "ended before the end-of-stream marker" in refusal(path)
    path.write_bytes(compress.compress(write(tmp_path / PARQUET, PROMPTS).read_bytes()))
    assert refusal(path) == f"is parquet compressed with {name}: decompress it first"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        (b'{"tok_input": [1, 2]}\n{"tok_input": [3]}\n', "is JSON text: convert it"),
        (b'  [{"tok_input": [1, 2]}]', "is JSON text: convert it"),
        (b"<!DOCTYPE html><html>", "is an HTML page"),
        (b"ARROW1\0\0", "is an Arrow IPC (feather) file: convert it"),
        (b"PK\x03\x04", "is a zip archive: unpack it"),
        (b"\x28\xb5\x2f\xfd", "is compressed with zstd: decompress it"),
        (b"\x04\x22\x4d\x18", "is compressed with lz4: decompress it"),
        (b"PARE", "is an encrypted parquet file: decrypt it"),
    ],
)
def test_what_is_often_taken_for_a_data_set_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    """The refusal says what the file is and what to do with it."""
    (tmp_path / PICKLE).write_bytes(content)
    assert reason in refusal(tmp_path / PICKLE)


def test_paths_that_are_no_regular_file_are_refused(tmp_path: Path) -> None:
    """A pipe that nobody writes, a device, a loop of links and an unreadable directory are each one line."""
    fifo, loop = tmp_path / "fifo.pkl", tmp_path / "loop.pkl"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    assert refusal(fifo) == "is not a regular file"
    assert refusal(Path("/dev/zero")) == "is not a regular file"
    assert refusal(loop) == "cannot be read: Too many levels of symbolic links"
    assert refusal(loop / "set.pkl") == "cannot be read: Too many levels of symbolic links"


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """The hash covers what was read: a file that changes meanwhile is refused."""
    path = write(tmp_path / PARQUET, PROMPTS)
    with (
        pytest.raises(UnreadableError, match=r"^changed while it was read$"),
        open_regular(str(path)) as file,
    ):
        read(file, None)
        path.write_bytes(path.read_bytes() + b"x")


def test_fixed_size_lists_and_tensors_are_lists(tmp_path: Path) -> None:
    """Lists of one length, as Hugging Face's `datasets` writes them, and tensors are read."""
    fixed = pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2))
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.int32(), [2]), fixed)
    for cells in (fixed, tensors):
        columns = read_here(write(tmp_path / PARQUET, cells))
        assert (columns.prompt_lens.tolist(), columns.tokens.tolist()) == ([2, 2], [1, 2, 3, 4])
    nulls = pa.array([[1, 2], None], pa.list_(pa.int32(), 2))
    assert refusal(write(tmp_path / PARQUET, nulls)) == "row 1: prompt is None, not a list of token ids"


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_data_set_names_of_every_text_type_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    """Plain, large and dictionary-encoded texts name a row's data set; a column of numbers names none."""
    columns = {"tok_input": PROMPTS, "dataset": pa.array(["a", None, "b"], kind)}
    pq.write_table(pa.table(columns), tmp_path / PARQUET)
    assert read_here(tmp_path / PARQUET).datasets == ["a", None, "b"]
    pq.write_table(pa.table(columns | {"dataset": [1, 2, 3]}), tmp_path / PARQUET)
    assert read_here(tmp_path / PARQUET).datasets == []


def test_later_batches_name_the_right_row(tmp_path: Path) -> None:
    """A bad row after the first thousand, in whatever row group, is named by its number in the file."""
    prompts = [[1]] * 2_500
    prompts[2_100] = [-1]
    pq.write_table(pa.table({"tok_input": prompts}), tmp_path / PARQUET, row_group_size=700)
    assert refusal(tmp_path / PARQUET).startswith("row 2100: token -1 is outside")
    assert len(read_here(tmp_path / PARQUET, 2_100).prompt_lens) == 2_100
