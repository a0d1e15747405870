"""Data sets: both formats are read, bad files are refused, and a pickle cannot run code."""

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sut import dataset

PROMPTS = [[4, 9, 17], [2, 5], [300]]
TOKENS = [4, 9, 17, 2, 5, 300]
OFFSETS = [0, 3, 5, 6]
PARQUET, PICKLE = BOTH = ["set.parquet", "set.pkl"]

# Names of pandas 3 and numpy 2 in a protocol 2 pickle -> names of pandas 2 and numpy 1.
OLD_NAMES = {
    b"cnumpy._core.": b"cnumpy.core.",
    b"cpandas\nDataFrame\n": b"cpandas.core.frame\nDataFrame\n",
    b"cpandas\nIndex\n": b"cpandas.core.indexes.base\nIndex\n",
    b"cpandas\nRangeIndex\n": b"cpandas.core.indexes.range\nRangeIndex\n",
}
# Globals that a pickle must not resolve.
FOREIGN = """
    builtins:eval builtins:getattr __builtin__:eval __builtin__:apply importlib:import_module pandas:eval
    pandas:read_pickle pandas:io.pickle.read_pickle pandas:DataFrame.to_pickle pandas:DataFrame.eval
    pandas:DataFrame.__init__.__globals__ pandas.io.pickle:read_pickle pandas.core.frame:DataFrame.to_csv
    numpy:load numpy:ndarray.tofile numpy:memmap numpy.core.multiarray:fromfile numpy._core.numeric:fromfile
    pyarrow.lib:memory_map _codecs:open
"""


def write(path: Path, cells: object, column: str = "tok_input") -> Path:
    """Write one column, as parquet or as a pickled DataFrame by the suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({column: cells}), path)
    else:
        pd.DataFrame({column: pd.Series(cells, dtype=object)}).to_pickle(path)
    return path


def refusal(path: Path, max_samples: int | None = None) -> str:
    """Load a file that must be refused; returns the reason without flag and file."""
    with pytest.raises(ValueError) as caught:
        dataset.load(path, max_samples)
    flag, _, reason = str(caught.value).partition(f" {path}: ")
    assert flag == "--input-file"
    assert "\n" not in reason
    return reason


def check_prompts(path: Path) -> None:
    """Check that the file holds PROMPTS."""
    loaded = dataset.load(path)
    assert loaded.tokens.tolist() == TOKENS
    assert loaded.offsets.tolist() == OFFSETS
    assert (loaded.tokens.dtype.name, loaded.offsets.dtype.name) == ("int32", "int64")


class Call:
    """Object whose pickle calls a function and then sets a state."""

    def __init__(self, function: object, args: object, *state: object) -> None:
        self.call = function, args, *state

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


def call_pickle(module: str, name: str, argument: str) -> bytes:
    """Write a protocol 4 pickle that calls module.name(argument); the name may be dotted."""
    texts = [pickle.SHORT_BINUNICODE + bytes([len(t)]) + t.encode() for t in (module, name, argument)]
    call = texts[0] + texts[1] + pickle.STACK_GLOBAL + texts[2] + pickle.TUPLE1 + pickle.REDUCE
    return pickle.PROTO + b"\x04" + call + pickle.STOP


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("column", ["tok_input", "input_tokens"])
def test_both_formats_and_both_columns_are_read(tmp_path: Path, name: str, column: str) -> None:
    """A data set holds each row's tokens in row order and the file's hash, whatever the suffix."""
    path = write(tmp_path / name, PROMPTS, column)
    check_prompts(path)
    loaded = dataset.load(path)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.path, loaded.num_samples) == (path, 3)
    assert loaded.prompt_lens.tolist() == [3, 2, 1]
    assert [loaded.prompt(index).tolist() for index in range(3)] == PROMPTS
    check_prompts(path.rename(tmp_path / "set.bin"))


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


@pytest.mark.parametrize(
    "convert",
    [
        tuple,
        lambda prompt: np.array(prompt, np.int32),
        lambda prompt: np.array(prompt, np.uint64),
        lambda prompt: np.array(prompt, object),
        lambda prompt: list(map(np.int64, prompt)),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_python_list_of_integers_is_read(
    tmp_path: Path, convert: Callable[[list[int]], object], protocol: int
) -> None:
    """Pickled cells may be lists, tuples or arrays of any integer, in a whole frame or a slice."""
    cells = [[7], *map(convert, PROMPTS[:2]), PROMPTS[2]]
    frame = pd.DataFrame({"tok_input": cells, "dataset": pd.Categorical(["a", "b", "a", "b"])}).iloc[1:]
    frame.to_pickle(tmp_path / PICKLE, protocol=protocol)
    check_prompts(tmp_path / PICKLE)


def test_pickles_under_older_names_are_read(tmp_path: Path) -> None:
    """Pickles of pandas 2 and numpy 1, with their module names, are read without a warning."""
    frame = pd.DataFrame({"tok_input": list(map(np.array, PROMPTS)), "n": [1, 2, 3], "x": [0.5] * 3})
    content = pickle.dumps(frame, protocol=2)
    for new, old in OLD_NAMES.items():
        assert new in content
        content = content.replace(new, old)
    (tmp_path / "set.pickle").write_bytes(content)
    check_prompts(tmp_path / "set.pickle")


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


@pytest.mark.parametrize("name", BOTH)
def test_columns_and_rows_by_dataset_are_told(tmp_path: Path, name: str) -> None:
    """A data set has the names of all columns, and counts the read rows by their text in `dataset`."""
    frame = pd.DataFrame({"dataset": ["a", "b", "a", None], "tok_input": [*PROMPTS, [1]], "n": [1, 2, 3, 4]})
    path = tmp_path / name
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_pickle(path)
    loaded = dataset.load(path)
    assert loaded.column_names == ("dataset", "tok_input", "n")
    assert loaded.rows_by_dataset == {"a": 2, "b": 1}
    assert dataset.load(path, 2).rows_by_dataset == {"a": 1, "b": 1}
    without = dataset.load(write(path, PROMPTS))
    assert (without.column_names, without.rows_by_dataset) == (("tok_input",), {})


@pytest.mark.parametrize("name", BOTH)
def test_max_samples_takes_the_first_rows(tmp_path: Path, name: str) -> None:
    """With max_samples 2 the third row is not checked; a number above the rows is refused."""
    path = write(tmp_path / name, [*PROMPTS[:2], []])
    assert dataset.load(path, 2).tokens.tolist() == [4, 9, 17, 2, 5]
    assert refusal(path, 4) == "has 3 rows, fewer than --max-samples 4"
    with pytest.raises(ValueError, match=r"^--max-samples: 0 is below 1$"):
        dataset.load(path, 0)


def test_gather_puts_prompts_end_to_end(tmp_path: Path) -> None:
    """Gather keeps the given order, allows repeats and no indices, and refuses an index out of range."""
    loaded = dataset.load(write(tmp_path / PARQUET, PROMPTS))
    lens, tokens = loaded.gather(np.array([2, 0, 2]))
    assert (lens.tolist(), tokens.tolist()) == ([1, 3, 1], [300, 4, 9, 17, 300])
    assert (lens.dtype.name, tokens.dtype.name) == ("uint32", "int32")
    lens, tokens = loaded.gather(np.zeros(0, np.int64))
    assert (len(lens), len(tokens), tokens.dtype.name) == (0, 0, "int32")
    with pytest.raises(IndexError):
        loaded.gather(np.array([3]))


def test_a_data_set_cannot_be_changed(tmp_path: Path) -> None:
    """Prompts are read-only views; gather returns a writable copy."""
    loaded = dataset.load(write(tmp_path / PARQUET, PROMPTS))
    assert loaded.prompt(1).base is loaded.tokens
    with pytest.raises(ValueError, match="read-only"):
        loaded.prompt(1)[0] = 0
    loaded.gather(np.array([1]))[1][0] = 0
    assert loaded.tokens.tolist() == TOKENS


def test_check_accepts_exactly_what_fits(tmp_path: Path) -> None:
    """An id of vocab_size - 1 and a prompt that leaves exactly max_new_tokens pass; one more is refused."""
    loaded = dataset.load(write(tmp_path / PARQUET, PROMPTS))
    loaded.check(vocab_size=301, max_model_len=13, max_new_tokens=10)
    with pytest.raises(ValueError, match=r"set.parquet: row 2: token 300 is outside 0 <= id < 300$"):
        loaded.check(vocab_size=300, max_model_len=13, max_new_tokens=10)
    message = "row 0: 3 prompt tokens and --max-new-tokens 10 exceed max_model_len 12 together"
    with pytest.raises(ValueError, match=f"^--input-file .*set.parquet: {message}$"):
        loaded.check(vocab_size=301, max_model_len=12, max_new_tokens=10)


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
    form = "parquet file" if name == PARQUET else "pickled DataFrame"
    assert refusal(path).startswith(f"is not a readable {form}: ")


@pytest.mark.parametrize("name", BOTH)
def test_truncated_files_are_refused(tmp_path: Path, name: str) -> None:
    """A file truncated at any of many lengths is refused."""
    path = write(tmp_path / name, PROMPTS)
    for num_bytes in range(path.stat().st_size - 1, 0, -37):
        os.truncate(path, num_bytes)
        assert refusal(path).startswith("is not a readable ")


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    """A pickle of another type than DataFrame is refused; the message names the type."""
    (tmp_path / PICKLE).write_bytes(pickle.dumps({"tok_input": PROMPTS}))
    assert refusal(tmp_path / PICKLE) == "is not a readable pickled DataFrame: it holds a dict"


def test_a_call_in_a_cell_is_not_made(tmp_path: Path) -> None:
    """A command in a pickle, or in a pickle that it loads, is not run; plain unpickling would run it."""
    marker, inner, path = tmp_path / "marker", tmp_path / "inner.pkl", tmp_path / PICKLE
    command = Call(os.system, (f"touch {marker}",))
    inner.write_bytes(pickle.dumps(command))
    for call in (command, Call(pd.read_pickle, (str(inner),)), Call(np.load, (str(inner),))):
        assert ", foreign to a DataFrame of tokens" in refusal(write(path, [[1], call]))
    assert not marker.exists()
    pickle.loads(inner.read_bytes())
    assert marker.exists()


@pytest.mark.parametrize("foreign", FOREIGN.split())
def test_no_other_global_is_reached(tmp_path: Path, foreign: str) -> None:
    """Globals that could run code are refused before they are resolved, also by dotted and old names."""
    marker, path = tmp_path / "marker", tmp_path / PICKLE
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    module, name = foreign.split(":")
    path.write_bytes(call_pickle(module, name, code))
    assert f".{name}, foreign to a DataFrame of tokens" in refusal(path)
    assert not marker.exists()


def test_buffers_that_lie_are_refused(tmp_path: Path) -> None:
    """An array with fewer objects than its shape, and strings outside their buffer, are refused."""
    state = (1, (1000,), np.dtype(object), False, [1])
    array = Call(*np.zeros(0).__reduce__()[:2], state)
    restore, ((kind, length, nulls, offset, buffers, *rest),) = pa.array(["ab"]).__reduce__()
    buffers[1] = pa.py_buffer(np.array([0, 10**9], np.int32).tobytes())
    strings = Call(restore, ((kind, length, nulls, offset, buffers, *rest),))
    for cell, reason in ((array, "shape and content disagree"), (strings, "offset")):
        assert reason in refusal(write(tmp_path / PICKLE, [cell]))
