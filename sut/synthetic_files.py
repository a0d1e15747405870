"""Draw the lengths of synthetic prompts and answers, and write an output whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.flags import FlagError

MIN_LEN = 2
"""Shortest prompt and answer, in tokens."""
MAX_SEED = 2**63
"""Largest random seed."""
EXISTS = "exists; --overwrite replaces it"
_LOG_NORMAL_SIGMA = 1.0


def check_bounds(flag: str, value: float, low: int, high: int) -> None:
    """Check that low <= value <= high.

    Raises:
        FlagError: Names flag, value and bounds.
    """
    # Written so that NaN fails, too.
    if not low <= value <= high:
        raise FlagError(f"--{flag}", f"{value} is outside {low} .. {high}")


def draw_lens(rng: np.random.Generator, num_lens: int, mean: float, longest: int) -> NDArray[np.int64]:
    """Draw clipped log-normal lengths, (num_lens,)."""
    shape = rng.lognormal(0.0, _LOG_NORMAL_SIGMA, num_lens)
    scale = mean
    # Clipping and small samples change the mean; repeated rescaling corrects it.
    for _ in range(20):
        scale *= mean / np.clip(shape * scale, MIN_LEN, longest).mean()
    return np.clip(np.rint(shape * scale), MIN_LEN, longest).astype(np.int64)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as parquet.

    Raises:
        OSError: The file cannot be written.
    """
    # An open file: pyarrow's own errors name the path in their reason.
    with path.open("wb") as file:
        pq.write_table(table, file)


@contextmanager
def temporary(output: Path) -> Iterator[Path]:
    """Yield a temporary path beside `output`; removes a file or directory left there at the end."""
    if not output.parent.is_dir():
        raise FlagError("--output", f"the directory {output.parent} does not exist", output)
    path = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        yield path
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
