"""Pickled DataFrames: those of any pandas are read, and none of them can run code or lie about memory."""

import collections
import datetime
import decimal
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from tests.sut.dataset_files import (
    LYING_DTYPE,
    PICKLE,
    POINTERS_FRAME,
    PROMPTS,
    Call,
    bytes_as,
    call_pickle,
    check_prompts,
    read_here,
    refusal,
    write,
)

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


def test_a_dtype_that_lies_about_pointers_reads_no_memory(tmp_path: Path) -> None:
    """A dtype of objects whose flags say that it holds none makes no pointers of a file's bytes.

    numpy itself takes the flags from the pickle: an object array over eight bytes is a pointer from the file.
    """
    path = tmp_path / PICKLE
    for dtype, shape in ((LYING_DTYPE, (1,)), (LYING_DTYPE, (8,)), (np.dtype(object), (1,))):
        assert "damaged" in refusal(write(path, [bytes_as(dtype, *shape)]))
    path.write_bytes(pickle.dumps(POINTERS_FRAME))
    assert (
        refusal(path)
        == "is not a readable pickled DataFrame: it is damaged, or from a pandas outside 1.0 to 3.x"
    )


@pytest.mark.parametrize("code", ["V8", "M8", "U2", "S8", "c16", "i3", "O8,i4", "i4,i4", "\0", 8])
def test_only_dtypes_of_the_list_are_rebuilt(tmp_path: Path, code: object) -> None:
    """A cell of dates, text, structures or an unknown code is refused by that code."""
    cell = bytes_as(Call(np.dtype, (code, False, True)), 8)
    assert "not numbers" in refusal(write(tmp_path / PICKLE, [cell]))


def test_arrays_that_lie_are_refused(tmp_path: Path) -> None:
    """An array with fewer objects or bytes than its shape, or a negative shape, is refused."""
    path = tmp_path / PICKLE
    state = (1, (1000,), np.dtype(object), False, [1])
    array = Call(*np.zeros(0).__reduce__()[:2], state)
    assert "shape and content disagree" in refusal(write(path, [array]))
    int64 = Call(np.dtype, ("i8", False, True), (3, "<", None, None, None, -1, -1, 0))
    assert "shape and content disagree" in refusal(write(path, [bytes_as(int64, 2**61)]))
    assert "has the shape (-1,)" in refusal(write(path, [bytes_as(int64, -1)]))
    unsigned = bytes_as(Call(np.dtype, ("u1", False, True)), 8)
    assert read_here(write(path, [unsigned])).tokens.tolist() == [65] * 8


@pytest.mark.parametrize("change", [(0, 10**9), (0, -1), (2, 1)])
def test_texts_outside_their_buffer_are_refused(tmp_path: Path, change: tuple[int, int]) -> None:
    """Names of data sets whose offsets leave their buffer, or fall, are refused."""
    frame = pd.DataFrame({"tok_input": PROMPTS, "dataset": pd.array(["ab"] * 3, "string[pyarrow]")})
    content = pickle.dumps(frame, 5)
    honest = np.array([0, 2, 4, 6], np.int64).tobytes()
    assert honest in content
    (tmp_path / PICKLE).write_bytes(content)
    assert read_here(tmp_path / PICKLE).datasets == ["ab"] * 3
    offsets = np.array([0, 2, 4, 6], np.int64)
    offsets[change[0]] = change[1]
    (tmp_path / PICKLE).write_bytes(content.replace(honest, offsets.tobytes()))
    assert "string array" in refusal(tmp_path / PICKLE)


OTHER_COLUMNS = {
    "dates": pd.to_datetime(["2025-01-01"] * 3),
    "zoned dates": pd.to_datetime(["2025-01-01"] * 3).tz_localize("Europe/Berlin"),
    "nullable ints": pd.array([1, None, 2], "Int64"),
    "booleans": pd.array([True, None, False], "boolean"),
    "periods": pd.period_range("2025-01", periods=3, freq="M"),
    "differences": pd.to_timedelta([1, 2, 3], "s"),
    "intervals": pd.interval_range(0, 3),
    "sparse": pd.arrays.SparseArray([0, 0, 1]),
    "arrow lists": pd.array([[1], [2], [3]], pd.ArrowDtype(pa.list_(pa.int64()))),
    "objects": [datetime.date(2025, 1, 1), decimal.Decimal("1.5"), uuid.UUID(int=5)],
    "timestamps": [pd.Timestamp("2025-01-01"), pd.NaT, pd.Timestamp("2025-01-01", tz="UTC")],
    "mappings": [{"a": {1, 2}}, collections.OrderedDict(a=1), collections.defaultdict(list, a=[1])],
}


@pytest.mark.parametrize("name", OTHER_COLUMNS)
def test_columns_that_nobody_reads_do_not_block_a_pickle(tmp_path: Path, name: str) -> None:
    """Prompts and data sets are read beside a column, or under a row index, of any other type."""
    columns = {"tok_input": PROMPTS, "dataset": pd.Categorical(["a", "b", "a"]), "other": OTHER_COLUMNS[name]}
    frame = pd.DataFrame(columns)
    index = frame["other"] if name != "mappings" else [1, 2, 3]
    by_column = frame.drop(columns="other").set_index(pd.Index(index))
    for protocol, stored in ((2, frame), (5, frame), (5, by_column)):
        stored.to_pickle(tmp_path / PICKLE, protocol=protocol)
        check_prompts(tmp_path / PICKLE)
        assert read_here(tmp_path / PICKLE).datasets == ["a", "b", "a"]


@pytest.mark.parametrize("kind", ["object", "string[python]", "string[pyarrow]", "str", "category"])
def test_data_set_names_of_every_text_type_are_unpickled(tmp_path: Path, kind: str) -> None:
    """Objects, both kinds of strings and categories name a row's data set; a missing name is None or NaN."""
    names = pd.Series(["a", None, "b"], dtype="object").astype(kind)
    pd.DataFrame({"tok_input": PROMPTS, "dataset": names}).to_pickle(tmp_path / PICKLE)
    first, missing, last = read_here(tmp_path / PICKLE).datasets
    assert (first, last) == ("a", "b")
    assert not isinstance(missing, str)


def manager_state(frame: pd.DataFrame) -> tuple[object, ...]:
    """Compose the state that pandas before 1.3 gave its block manager."""
    axes = [frame.columns.astype(object), frame.index]
    block = {"values": frame.to_numpy().T, "mgr_locs": slice(0, len(frame.columns), 1)}
    return axes, [], [], {"0.14.1": {"axes": axes, "blocks": [block]}}


@pytest.mark.parametrize("key", ["_mgr", "_data"])
def test_the_layouts_of_pandas_1_are_read(tmp_path: Path, key: str) -> None:
    """Frames of pandas 1.0 to 1.2, whose block manager keeps its blocks in its state, are read."""
    frame = pd.DataFrame({"dataset": ["a", "b", "c"], "tok_input": PROMPTS}).astype(object)
    manager = Call(type(frame._mgr), (), manager_state(frame))
    old = Call(pd.DataFrame, (), {key: manager, "_typ": "dataframe"})
    (tmp_path / PICKLE).write_bytes(pickle.dumps(old, 4))
    check_prompts(tmp_path / PICKLE)
    assert read_here(tmp_path / PICKLE).datasets == ["a", "b", "c"]


def test_a_huge_integer_is_refused_by_its_size(tmp_path: Path) -> None:
    """A token of a million bits is refused without its digits."""
    reason = "row 0: token of 1000001 bits is outside 0 <= id < 2147483648"
    assert refusal(write(tmp_path / PICKLE, [[1 << 1_000_000]])) == reason


def test_frames_without_prompts_say_what_they_have(tmp_path: Path) -> None:
    """Unnamed columns are shown by number; prompts in arrow lists are to be stored as parquet."""
    path = tmp_path / PICKLE
    pd.DataFrame([[1, 2]]).to_pickle(path)
    assert refusal(path) == "has no column tok_input or input_tokens; columns found: 0, 1"
    pd.DataFrame({"tok_input": OTHER_COLUMNS["arrow lists"]}).to_pickle(path)
    assert refusal(path) == "column tok_input is no column of Python lists: store it as parquet"
