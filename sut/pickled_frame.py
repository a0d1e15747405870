"""Read the prompts of a pickled pandas DataFrame without pandas, and without running what the pickle names.

Unpickling calls functions and classes that the file names. Here each of them is a record that keeps its
arguments (`Inert`): nothing that the file names is imported or called. The columns are then taken from the
records, by the layouts of pandas 1.0 to 3.x, and arrays are rebuilt from their bytes with a dtype of a short
list. A column that is not read may have any type.
"""

import pickle
import re
from collections.abc import Sequence
from functools import cache
from io import BufferedIOBase
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sut.prompt_columns import (
    DATASET_COLUMN,
    ID_BOUND,
    DatasetColumns,
    UnreadableError,
    check_ids,
    check_num_rows,
    check_prompts,
    outside,
    shown,
    token_column,
)

# Packages whose classes occur in DataFrames; their functions in pickles have private names.
_DATA_PACKAGES = {"dateutil", "numpy", "pandas", "pyarrow", "pytz", "zoneinfo"}
_DATA_NAME = re.compile(r"_*[A-Z]\w*|_\w+", re.ASCII)
# Other globals of such pickles, by module. A name outside is refused, although nothing would call it:
# a file that names other functions is no data set.
_ADMITTED = {
    "_codecs": {"encode"},
    "builtins": {
        *("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object"),
        *("range", "set", "slice", "str", "tuple"),
    },
    "collections": {"OrderedDict", "defaultdict"},
    "datetime": {"date", "datetime", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"scalar"},
    "pyarrow.lib": {
        *("chunked_array", "decimal128", "dictionary", "duration", "field", "large_list", "list_", "map_"),
        *("py_buffer", "struct", "timestamp", "type_for_alias"),
    },
    "uuid": {"UUID"},
}
PICKLE_ERRORS = (
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, TypeError, ValueError),
    *(ArithmeticError, AssertionError, RuntimeError, SyntaxError, SystemError, OSError),
)
"""Raised by pickle for damaged data, and here for records of another shape than pandas writes."""

# Types of numbers that are rebuilt from bytes, by numpy's codes.
_NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
_OFFSET_TYPES: dict[str, np.dtype[Any]] = {"string": np.dtype("<i4"), "large_string": np.dtype("<i8")}
_MAX_UNNAMED_COLUMNS = 1_000


class Inert:
    """One object of a pickle: the name that would have made it, its arguments and its state."""

    __slots__ = ("args", "state")
    args: tuple[Any, ...]
    state: Any
    name = ""

    def __new__(cls, *args: Any, **_: Any) -> "Inert":
        """Keep the arguments."""
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __init__(self, *_: Any, **__: Any) -> None:
        """Accept what __new__ has kept."""

    def __setstate__(self, state: Any, /) -> None:
        """Keep the state."""
        self.state = state

    def __setitem__(self, *_: object) -> None:
        """Drop an item of a foreign mapping."""

    def extend(self, _: object) -> None:
        """Drop items of a foreign list."""

    append = extend

    def __repr__(self) -> str:
        """Show the name."""
        return self.name


@cache
def _inert_class(name: str) -> type[Inert]:
    return type(name, (Inert,), {"__slots__": (), "name": name})


class _ZoneAttribute(Inert):
    """The one getattr that is no sign of an attack: a time zone is pickled as a call of this attribute."""

    __slots__ = ()
    name = "getattr"

    def __new__(cls, *args: Any, **_: Any) -> "_ZoneAttribute":
        """Refuse other attributes."""
        if args != (_inert_class("ZoneInfo"), "_unpickle"):
            raise pickle.UnpicklingError("it uses builtins.getattr, foreign to a DataFrame of tokens")
        return object.__new__(cls)

    def __call__(self, *_: object) -> "_ZoneAttribute":
        """Stand for the time zone."""
        return self


class _InertUnpickler(pickle.Unpickler):
    """Unpickle to records."""

    def find_class(self, module: str, name: str) -> type[Inert]:
        """Return the record class of a global."""
        if module == "__builtin__":
            module = "builtins"  # protocol 2
        module = module.replace("numpy.core.", "numpy._core.", 1)  # numpy 1.x
        if (module, name) == ("builtins", "getattr"):
            return _ZoneAttribute
        of_data = module.partition(".")[0] in _DATA_PACKAGES and _DATA_NAME.fullmatch(name)
        if not of_data and name not in _ADMITTED.get(module, ()):
            raise pickle.UnpicklingError(f"it uses {module}.{name}, foreign to a DataFrame of tokens")
        return _inert_class(name)


_Blocks = Sequence[tuple[Any, Any]]
"""Values and placement of each block of a DataFrame."""


def read_pickle(file: BufferedIOBase, max_samples: int | None) -> DatasetColumns:
    """Read the first rows of a pickled DataFrame.

    Raises:
        UnreadableError: The rows are not prompts.
        PICKLE_ERRORS, MemoryError: The file is damaged, no DataFrame, or needs too much memory.
    """
    frame = _InertUnpickler(file).load()
    if not isinstance(frame, _inert_class("DataFrame")):
        raise TypeError(f"it holds a {type(frame).__name__}")
    names, cells, datasets = _columns(frame)
    num_rows = check_num_rows(len(cells), max_samples)
    prompts = [_prompt(row, cell) for row, cell in enumerate(cells[:num_rows])]
    prompt_lens = np.fromiter(map(len, prompts), np.int64, num_rows)
    tokens = np.concatenate(prompts)
    check_prompts(prompt_lens, tokens)
    return DatasetColumns(names, prompt_lens, tokens, datasets[:num_rows])


def _columns(frame: Inert) -> tuple[list[str], list[Any], list[Any]]:
    """Return the names of all columns, the prompts, and the values of the column `dataset`."""
    try:
        blocks, column_index = _layout(frame)
        names = _index_names(column_index)
        position = token_column(names)
        cells = _column_cells(blocks, position)
        datasets = _column_cells(blocks, names.index(DATASET_COLUMN)) if DATASET_COLUMN in names else None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise pickle.UnpicklingError("it is damaged, or from a pandas outside 1.0 to 3.x") from error
    if cells is None:
        raise UnreadableError(f"column {names[position]} is no column of Python lists: store it as parquet")
    return names, cells, datasets or []


def _layout(frame: Inert) -> tuple[_Blocks, Any]:
    """Return values and positions of the frame's blocks, and the index of its columns."""
    manager = frame.state["_mgr"] if "_mgr" in frame.state else frame.state["_data"]
    if manager.args:  # since pandas 1.3
        blocks, axes = manager.args
        return [block.args[:2] for block in blocks], axes[0]
    stored = manager.state[3]["0.14.1"]
    return [(block["values"], block["mgr_locs"]) for block in stored["blocks"]], stored["axes"][0]


def _index_names(index: Inert) -> list[str]:
    """Return the names of all columns; an integer is its digits."""
    kind, content = index.args
    if kind.name == "RangeIndex":
        names = range(content["start"], content["stop"], content["step"])[:_MAX_UNNAMED_COLUMNS]
        return list(map(str, names))
    cells = _cells(content["data"], 0)
    if cells is None:
        raise UnreadableError(f"has columns of {kind.name}, not named columns")
    return [cell if isinstance(cell, str) else shown(cell) for cell in cells]


def _column_cells(blocks: _Blocks, position: int) -> list[Any] | None:
    """Return a column's values; None if they are not of a kind that is read."""
    for values, placement in blocks:
        positions = _positions(placement)
        if position in positions:
            return _cells(values, positions.index(position))
    raise LookupError(f"no block holds column {position}")


def _positions(placement: Inert) -> Sequence[int]:
    if placement.name == "slice":
        start, stop, step = placement.args
        return range(start, stop, 1 if step is None else step)
    positions: list[int] = _array(placement).tolist()
    return positions


def _cells(values: Inert, row: int) -> list[Any] | None:
    """Return one row of a block, or an array's values: the values of one column.

    Returns:
        Python objects and numbers; None if the values are of another kind than arrays, text or categories.
    """
    if _is_array(values):
        array = _array(values)
        column: list[Any] = (array[row] if array.ndim == 2 else array).tolist()
        return column
    if values.name == "ArrowStringArray":
        state = values.state
        return _arrow_texts(state["_pa_array"] if "_pa_array" in state else state["_data"])
    parts = values.state.values() if isinstance(values.state, dict) else values.state or ()
    arrays = [part for part in parts if _is_array(part)]
    if not arrays or not _is_of(values, "StringArray", "Categorical"):
        return None
    cells: list[Any] = _array(arrays[0]).tolist()
    kinds = [part for part in parts if isinstance(part, Inert) and part.name == "CategoricalDtype"]
    if not kinds:
        return cells
    categories = _index_names(kinds[0].state["categories"])
    return [categories[code] if code >= 0 else None for code in cells]


def _is_of(values: Inert, *names: str) -> bool:
    """Whether a record is an instance of a class, made by it or by a function that takes the class."""
    made_by = [getattr(arg, "name", None) for arg in values.args[:1]]
    return bool({values.name, *made_by} & set(names))


def _arrow_texts(array: Inert) -> list[str | None]:
    """Decode an arrow array of strings, or chunks of it."""
    if array.name == "chunked_array":
        return [text for chunk in array.args[0] for text in _arrow_texts(chunk)]
    kind, length, _, offset, (validity, ends, content) = array.args[0][:5]
    end = offset + length
    offsets = np.frombuffer(_bytes(ends), _OFFSET_TYPES[kind.args[0]])[offset : end + 1].tolist()
    text = b"" if content is None else _bytes(content)
    if min(offset, length) < 0 or len(offsets) != length + 1 or sorted(offsets) != offsets:
        raise pickle.UnpicklingError("the offsets of a string array are damaged")
    if not 0 <= offsets[0] <= offsets[-1] <= len(text):
        raise pickle.UnpicklingError("an offset of a string array is outside its text")
    texts = [text[start:stop].decode() for start, stop in pairwise(offsets)]
    if validity is None:
        return list(texts)
    valid = np.unpackbits(np.frombuffer(_bytes(validity), np.uint8), bitorder="little")[offset:end]
    return [text if known else None for text, known in zip(texts, valid.tolist(), strict=True)]


def _is_array(value: object) -> bool:
    return isinstance(value, Inert) and value.name in ("_reconstruct", "_frombuffer")


def _array(value: Inert) -> NDArray[Any]:
    """Rebuild an array of numbers or objects."""
    if value.name == "_frombuffer":
        content, dtype, shape, order = value.args
        is_fortran = order == "F"
    else:
        shape, dtype, is_fortran, content = value.state[-4:]
    if not isinstance(shape, tuple) or min(shape, default=0) < 0:
        raise pickle.UnpicklingError(f"an array has the shape {shown(shape)}")
    number = _dtype(dtype)
    if number.hasobject and isinstance(content, list):
        # Filled one by one: numpy would make a second dimension of lists of one length.
        flat = np.fromiter(content, object, len(content))
    elif number.hasobject:
        raise pickle.UnpicklingError("an array of objects is damaged")
    else:
        flat = np.frombuffer(_bytes(content), number)
    if prod(shape) != len(flat):
        raise pickle.UnpicklingError("an array's shape and content disagree")
    return flat.reshape(shape, order="F" if is_fortran else "C")


def _dtype(value: Inert) -> np.dtype[Any]:
    """Rebuild a dtype from its code and byte order alone; a dtype's other state could hold pointers."""
    code, order = value.args[0], value.state[1] if value.state else "="
    if code in ("O8", "O4", "O"):
        return np.dtype(object)
    if value.name != "dtype" or code not in _NUMBERS or order not in tuple("<>|="):
        raise pickle.UnpicklingError(f"an array holds {shown(code)}, not numbers")
    rebuilt: np.dtype[Any] = np.dtype(order + code)
    return rebuilt


def _bytes(value: Any) -> bytes | bytearray:
    """Return the content of a record of bytes."""
    if isinstance(value, bytes | bytearray):
        return value
    if value.name == "encode":  # protocol 2 stores bytes as text
        return str(value.args[0]).encode("latin1")
    return _bytes(value.args[0]) if value.args else b""


def _prompt(row: int, cell: Any) -> NDArray[np.int32]:
    """Convert one cell, a list, tuple or array."""
    values = _array(cell) if _is_array(cell) else cell
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu":
        ids = values
    else:
        values = values.tolist() if isinstance(values, np.ndarray) else values
        ids = _integers(row, values, cell)
    check_ids(np.array([len(ids)]), ids, ID_BOUND, first_row=row)
    return ids.astype(np.int32)


def _integers(row: int, values: Any, cell: object) -> NDArray[np.int64]:
    if not isinstance(values, list | tuple):
        raise UnreadableError(f"row {row}: prompt {shown(cell)} is not a list of token ids")
    kinds = set(map(type, values))
    if _inert_class("scalar") in kinds:
        values = [_number(value) for value in values]
        kinds = set(map(type, values))
    # bool is a subclass of int, so check the exact type to distinguish True from 1.
    for kind in kinds - {int}:
        value = next(value for value in values if type(value) is kind)
        raise UnreadableError(f"row {row}: token {shown(value)} is {kind.__name__}, not an integer")
    try:
        return np.array(values, np.int64)
    except OverflowError:
        token = next(value for value in values if not 0 <= value < ID_BOUND)
        raise UnreadableError(outside(row, token, ID_BOUND)) from None


def _number(value: object) -> object:
    """Return the number of a numpy scalar; another value as it is."""
    if isinstance(value, Inert) and value.name == "scalar":
        dtype, content = value.args
        return np.frombuffer(_bytes(content), _dtype(dtype))[0].item()
    return value
