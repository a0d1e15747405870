"""Arrow arrays: numpy's values go there and back, and a run's outputs are written without pandas."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from common.arrow_buffers import to_arrow, to_numpy, to_texts
from tests.forked import completed_command

# Writes one answer and one unfinished row as a run does, and prints whether pandas was imported.
WRITE_OUTPUTS = """
import sys, time
from pathlib import Path
import numpy as np
import coordinator.run
from coordinator.recording.arrow_files import OutputBatch, StreamFile, record_batch, write_partial
one = OutputBatch(np.array([7]), np.array([2]), np.array([4, 5], np.int32))
stream, partial = Path(sys.argv[1], "stream"), Path(sys.argv[1], "partial")
file = StreamFile(stream)
file.write(record_batch([one]))
counts = write_partial(partial, stream, [record_batch([one], ["waiting"])], time.monotonic_ns() + 10**11)
print(dict(counts), "pandas" in sys.modules)
"""


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_numbers_go_there_and_back(dtype: type) -> None:
    """Values, a slice of them, every second one and none are the same after both conversions."""
    values = np.arange(5, dtype=dtype)
    assert to_arrow(values).to_pylist() == [0, 1, 2, 3, 4]
    assert to_arrow(values[::2]).to_pylist() == [0, 2, 4]
    assert to_numpy(to_arrow(values).slice(2, 2)).tolist() == [2, 3]
    back = to_numpy(to_arrow(values[:0]))
    assert (len(back), back.dtype) == (0, dtype)


def test_texts_become_an_arrow_array() -> None:
    """Texts of any length, and none, keep their order."""
    assert to_texts(["a", "", "bcd"]).equals(pa.array(["a", "", "bcd"]))
    assert to_texts([]).equals(pa.array([], pa.string()))


def test_outputs_are_written_without_pandas(tmp_path: Path) -> None:
    """A run that stores answers, and one that ends early, never import pandas: other threads would wait."""
    command = [sys.executable, "-c", WRITE_OUTPUTS, str(tmp_path)]
    done = completed_command(command)
    assert done.stdout == "{'complete': 1, 'waiting': 1} False\n", done.stderr
