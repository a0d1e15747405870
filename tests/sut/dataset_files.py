"""Data set files for the tests, and the reader without its process."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sut.dataset_file import open_regular, read
from sut.prompt_columns import DatasetColumns, UnreadableError

PROMPTS = [[4, 9, 17], [2, 5], [300]]
TOKENS = [4, 9, 17, 2, 5, 300]
PARQUET, PICKLE = BOTH = ["set.parquet", "set.pkl"]


def write(path: Path, cells: object, column: str = "tok_input") -> Path:
    """Write one column, as parquet or as a pickled DataFrame by the suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({column: cells}), path)
    else:
        pd.DataFrame({column: pd.Series(cells, dtype=object)}).to_pickle(path)
    return path


def read_here(path: Path, max_samples: int | None = None) -> DatasetColumns:
    """Read a file in this process."""
    with open_regular(str(path)) as file:
        return read(file, max_samples)[0]


def refusal(path: Path, max_samples: int | None = None) -> str:
    """Read a file that must be refused, in this process; returns the reason."""
    with pytest.raises(UnreadableError) as caught:
        read_here(path, max_samples)
    return str(caught.value)


def check_prompts(path: Path) -> None:
    """Check that the file holds PROMPTS."""
    columns = read_here(path)
    assert columns.tokens.tolist() == TOKENS
    assert columns.prompt_lens.tolist() == [3, 2, 1]
    assert (columns.tokens.dtype.name, columns.prompt_lens.dtype.name) == ("int32", "int64")


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


def bytes_as(dtype: object, *shape: int) -> Call:
    """Pickle eight bytes as an array."""
    return Call(np.frombuffer(b"", "u1").__reduce_ex__(5)[0], (b"A" * 8, dtype, shape, "C"))


# Flags 0, where an honest pickle has 63: numpy then takes an object array over bytes, which are pointers.
LYING_DTYPE = Call(np.dtype, ("O8", False, True), (3, "|", None, None, None, 8, 8, 0))
POINTERS_FRAME = Call(pd.DataFrame, ({"tok_input": bytes_as(LYING_DTYPE, 1)},))
