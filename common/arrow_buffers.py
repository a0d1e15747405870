"""Convert between numpy and Arrow through their buffers.

pyarrow's own conversions import pandas when they are first used: half a second in which no other thread runs.
Its casts import pyarrow.compute.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def to_arrow(values: NDArray[Any], known: NDArray[np.bool_] | None = None) -> pa.Array:
    """Convert an array of numbers, (N,), without a copy if it is contiguous.

    Args:
        values: The numbers.
        known: (N,) False where the number is null; None: no number is.
    """
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    valid = None if known is None else pa.py_buffer(np.packbits(known, bitorder="little"))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [valid, buffer])


def to_booleans(values: NDArray[np.bool_]) -> pa.Array:
    """Convert truth values, (N,), to an Arrow array of bits."""
    bits = pa.py_buffer(np.packbits(values, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, bits])


def to_texts(values: Sequence[str]) -> pa.Array:
    """Convert texts to an Arrow array of strings."""
    encoded = [value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def to_numpy(array: pa.Array) -> NDArray[Any]:
    """View an Arrow array of integers without nulls as a numpy array, (N,)."""
    dtype = np.dtype(str(array.type))
    buffer = array.buffers()[1]
    content = b"" if buffer is None else buffer
    start = array.offset * dtype.itemsize
    return np.frombuffer(content, dtype, len(array), start) if len(array) else np.zeros(0, dtype)
