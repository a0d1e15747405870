"""Read the pre-tokenised samples of a run: one parquet or pickled pandas DataFrame, a row per sample.

The schema is the reference's (mlcommons/inference, language/gpt-oss-120b): the token column is `tok_input`,
else `input_tokens`; other columns are ignored; a sample's QSL index is its row number. Bad input raises a
FlagError that names the flag, the file and, if known, the row, the value and the bound.
"""

import hashlib
import importlib
import io
import math
import pickle
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.flags import FlagError

TOKEN_COLUMNS = ("tok_input", "input_tokens")

_ID_BOUND = 2**31  # ids are int32 from here to the engine
_LIST_TYPES = (pa.types.is_list, pa.types.is_large_list)
_TokenIds = NDArray[np.integer]


class _Columns(NamedTuple):
    """What is read of a file's rows."""

    names: tuple[str, ...]
    """Names of all columns."""
    lens: NDArray[np.int64]
    """Prompt lengths, (N,)."""
    ids: _TokenIds
    """Tokens of all prompts, concatenated, (T,)."""
    datasets: Iterable[object]
    """Values of the column `dataset`, (N,); empty without it."""


# All globals, by module, in pickles of pandas 2.x and 3.x DataFrames of lists, arrays, strings, numbers and
# categories. None of them opens a file, imports a module by name or looks up an attribute.
_ADMITTED = {
    "_codecs": {"encode"},
    "builtins": {"bytearray", "slice"},
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "pandas": {"Categorical", "CategoricalDtype", "DataFrame", "Index", "NA", "RangeIndex", "StringDtype"},
    "pandas._libs.arrays": {"__pyx_unpickle_NDArrayBacked"},
    "pandas._libs.internals": {"_unpickle_block"},
    "pandas._libs.missing": {"NA"},
    "pandas.arrays": {"ArrowStringArray", "StringArray"},
    "pandas.core.arrays.categorical": {"Categorical"},
    "pandas.core.arrays.string_": {"StringArray", "StringDtype"},
    "pandas.core.arrays.string_arrow": {"ArrowStringArray"},
    "pandas.core.dtypes.dtypes": {"CategoricalDtype"},
    "pandas.core.frame": {"DataFrame"},
    "pandas.core.indexes.base": {"Index", "_new_Index"},
    "pandas.core.indexes.range": {"RangeIndex"},
    "pandas.core.internals.managers": {"BlockManager"},
    "pyarrow.lib": {"_restore_array", "py_buffer", "type_for_alias"},
}

# Raised by pickle and the constructors above for damaged or unknown data.
_UNPICKLE_ERRORS = (
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, TypeError, ValueError),
    *(ArithmeticError, AssertionError, MemoryError, RuntimeError, SyntaxError, SystemError),
    pa.ArrowException,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Prompts of all samples; both arrays are read-only."""

    path: Path
    """File the prompts were read from."""
    sha256: str
    """Hash of the file's bytes, hexadecimal."""
    tokens: NDArray[np.int32]
    """(T,) all prompts, concatenated."""
    offsets: NDArray[np.int64]
    """(N+1,) prompt i is tokens[offsets[i]:offsets[i+1]]."""
    column_names: tuple[str, ...] = ()
    """Names of all columns of the file."""
    rows_by_dataset: dict[str, int] = field(default_factory=dict)
    """Number of samples by their text in the column `dataset`; other values of it are not counted."""

    @property
    def num_samples(self) -> int:
        """Number of samples, N."""
        return len(self.offsets) - 1

    @property
    def prompt_lens(self) -> NDArray[np.int64]:
        """Lengths of all prompts, (N,), in tokens."""
        return np.diff(self.offsets)

    def prompt(self, index: int) -> NDArray[np.int32]:
        """Return one sample's prompt as a view, shape (prompt_len,)."""
        return self.tokens[self.offsets[:-1][index] : self.offsets[1:][index]]

    def gather(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
        """Copy and concatenate the prompts of several samples.

        Args:
            indices: (R,) sample indices in any order, repeats allowed.

        Returns:
            The prompt lengths (R,) and their tokens (sum of the lengths,).
        """
        starts, stops = self.offsets[:-1][indices], self.offsets[1:][indices]
        rows = [self.tokens[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
        return (stops - starts).astype(np.uint32), np.concatenate(rows or [self.tokens[:0]])

    def check(self, *, vocab_size: int, max_model_len: int, max_new_tokens: int) -> None:
        """Check that the model can serve all prompts.

        Args:
            vocab_size: Ids must lie in 0 <= id < vocab_size.
            max_model_len: Longest prompt and answer together, in tokens.
            max_new_tokens: Longest answer, in tokens.

        Raises:
            FlagError: An id outside the vocabulary, or a prompt that leaves less than `max_new_tokens`.
        """
        _check_ids(self.path, self.prompt_lens, self.tokens, vocab_size)
        row = int(self.prompt_lens.argmax())
        prompt_len = int(self.prompt_lens[row])
        if prompt_len + max_new_tokens > max_model_len:
            raise _refusal(
                self.path,
                f"row {row}: {prompt_len} prompt tokens and --max-new-tokens {max_new_tokens} exceed "
                f"max_model_len {max_model_len} together",
            )


def load(path: Path, max_samples: int | None = None) -> Dataset:
    """Read a data set.

    The suffix determines the format: .parquet, .pkl or .pickle; otherwise the first bytes of the file do.

    Args:
        path: The file of `--input-file`.
        max_samples: Read only the first rows, this many; None: all.

    Raises:
        FlagError: The file cannot be read, or a row is not one or more integers in 0 <= id < 2**31.
    """
    if max_samples is not None and max_samples < 1:
        raise FlagError("--max-samples", f"{max_samples} is below 1")
    content = _read(path)
    suffix = path.suffix.lower()
    is_parquet = suffix == ".parquet" or (suffix not in (".pkl", ".pickle") and content.startswith(b"PAR1"))
    columns = (_read_parquet if is_parquet else _read_pickle)(path, content, max_samples)
    lens, ids = columns.lens, columns.ids
    if not lens.all():
        raise _refusal(path, f"row {np.argmin(lens)}: prompt is empty")
    _check_ids(path, lens, ids, _ID_BOUND)
    tokens = ids.astype(np.int32)
    offsets = np.concatenate([np.zeros(1, np.int64), lens.cumsum()])
    tokens.flags.writeable = offsets.flags.writeable = False
    return Dataset(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        tokens=tokens,
        offsets=offsets,
        column_names=columns.names,
        rows_by_dataset=dict(Counter(value for value in columns.datasets if isinstance(value, str))),
    )


def _refusal(path: Path, reason: str) -> FlagError:
    return FlagError("--input-file", " ".join(reason.split()), path)


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _refusal(path, f"cannot be read: {error.strerror}") from error
    if not content:
        raise _refusal(path, "is empty")
    return content


@contextmanager
def _refusing(path: Path, form: str, errors: tuple[type[BaseException], ...]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise _refusal(path, f"is not a readable {form}: {str(error) or type(error).__name__}") from error


def _token_column(path: Path, columns: Sequence[object]) -> int:
    """Return the index of the token column."""
    for name in TOKEN_COLUMNS:
        if name in columns:
            return columns.index(name)
    found = ", ".join(map(str, columns)) or "none"
    raise _refusal(path, f"has no column {' or '.join(TOKEN_COLUMNS)}; columns found: {found}")


def _check_num_rows(path: Path, num_rows: int, max_samples: int | None) -> None:
    if num_rows == 0:
        raise _refusal(path, "has 0 rows")
    if max_samples is not None and num_rows < max_samples:
        raise _refusal(path, f"has {num_rows} rows, fewer than --max-samples {max_samples}")


def _check_ids(path: Path, lens: NDArray[np.int64], ids: _TokenIds, bound: int) -> None:
    if ids.min() < 0 or ids.max() >= bound:
        wrong = (ids < 0) | (ids >= bound)
        row = _row(lens, wrong)
        raise _refusal(path, f"row {row}: token {ids[np.argmax(wrong)]} is outside 0 <= id < {bound}")


def _row(lens: NDArray[np.int64], wrong: NDArray[np.bool_]) -> int:
    """Return the row of the first wrong token."""
    return int(np.searchsorted(lens.cumsum(), np.argmax(wrong), side="right"))


def _read_parquet(path: Path, content: bytes, max_samples: int | None) -> _Columns:
    with _refusing(path, "parquet file", (pa.ArrowException, OSError)):
        file = pq.ParquetFile(pa.BufferReader(content))
        columns = file.schema_arrow.names
    column_name = columns[_token_column(path, columns)]
    _check_num_rows(path, file.metadata.num_rows, max_samples)
    with _refusing(path, "parquet file", (pa.ArrowException, OSError)):
        table = file.read(columns=[column_name, "dataset"])
        # Select by position, because a column name may occur twice.
        column = table.column(table.column_names.index(column_name)).slice(0, max_samples).combine_chunks()
        datasets = table.column("dataset").slice(0, max_samples).to_pylist() if "dataset" in columns else ()
    return _Columns(tuple(columns), *_flatten(path, column), datasets)


def _flatten(path: Path, column: pa.Array) -> tuple[NDArray[np.int64], _TokenIds]:
    if column.null_count:
        raise _refusal(path, f"row {np.argmax(column.is_null())}: prompt is None, not a list of token ids")
    if not any(is_list(column.type) for is_list in _LIST_TYPES):
        value = reprlib.repr(column[0].as_py())
        raise _refusal(path, f"row 0: prompt {value} is {column.type}, not a list of token ids")
    lens, ids = np.asarray(pc.list_value_length(column), np.int64), column.flatten()
    if ids.null_count:
        row = _row(lens, np.asarray(ids.is_null()))
        raise _refusal(path, f"row {row}: token None is not an integer")
    if len(ids) and not pa.types.is_integer(ids.type):
        row, value = int(np.argmax(lens > 0)), reprlib.repr(ids[0].as_py())
        raise _refusal(path, f"row {row}: token {value} is {ids.type}, not an integer")
    return lens, ids.to_numpy(zero_copy_only=False)


class _CheckedArray(np.ndarray):
    """An array that checks, unlike numpy, that its content has as many objects as its shape requires."""

    def __setstate__(self, state: Any, /) -> None:
        shape, content = state[-4], state[-1]
        fits = isinstance(shape, tuple) and min(shape, default=0) >= 0
        if isinstance(content, list) and not (fits and math.prod(shape) == len(content)):
            raise pickle.UnpicklingError("an array's shape and content disagree")
        super().__setstate__(state)


def _restore_array(state: object) -> pa.Array:
    """Restore an arrow array and check its offsets, which arrow itself does not check."""
    array = pa.lib._restore_array(state)
    array.validate(full=True)
    return array


_CHECKED = {("numpy", "ndarray"): _CheckedArray, ("pyarrow.lib", "_restore_array"): _restore_array}


class _FrameUnpickler(pickle.Unpickler):
    """Unpickle a DataFrame; refuse every global that could run code."""

    def find_class(self, module: str, name: str) -> object:
        """Return an admitted global, by this environment's module names."""
        if module == "__builtin__":
            module = "builtins"  # protocol 2
        module = module.replace("numpy.core.", "numpy._core.", 1)  # numpy 1.x
        if name not in _ADMITTED.get(module, ()):
            raise pickle.UnpicklingError(f"it uses {module}.{name}, foreign to a DataFrame of tokens")
        # super().find_class would follow dots and rename Python 2 globals after this check.
        return _CHECKED.get((module, name)) or getattr(importlib.import_module(module), name)


def _read_pickle(path: Path, content: bytes, max_samples: int | None) -> _Columns:
    with _refusing(path, "pickled DataFrame", _UNPICKLE_ERRORS):
        frame = _FrameUnpickler(io.BytesIO(content)).load()
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(f"it holds a {type(frame).__name__}")
        columns = list(frame.columns)
    position = _token_column(path, columns)
    with _refusing(path, "pickled DataFrame", _UNPICKLE_ERRORS):
        cells = frame.iloc[:, position].tolist()
        datasets = frame["dataset"].tolist()[:max_samples] if "dataset" in columns else ()
    _check_num_rows(path, len(cells), max_samples)
    prompts = [_cell_ids(path, row, cell) for row, cell in enumerate(cells[:max_samples])]
    lens = np.fromiter(map(len, prompts), np.int64, len(prompts))
    return _Columns(tuple(map(str, columns)), lens, np.concatenate(prompts), datasets)


def _cell_ids(path: Path, row: int, cell: object) -> _TokenIds:
    """Convert one cell, a list, tuple or array, to int64, or to object if an id exceeds int64."""
    if isinstance(cell, np.ndarray) and cell.ndim == 1 and cell.dtype.kind == "i":
        return cell.astype(np.int64, subok=False)
    values = cell.tolist() if isinstance(cell, np.ndarray) else cell
    if not isinstance(values, list | tuple):
        raise _refusal(path, f"row {row}: prompt {reprlib.repr(cell)} is not a list of token ids")
    # bool is a subclass of int, so check the exact type to distinguish True from 1.
    for kind in set(map(type, values)):
        if kind is not int and not issubclass(kind, np.integer):
            value = next(value for value in values if type(value) is kind)
            raise _refusal(path, f"row {row}: token {reprlib.repr(value)} is {kind.__name__}, not an integer")
    try:
        return np.array(values, np.int64)
    except OverflowError:
        return np.array(values, object)
