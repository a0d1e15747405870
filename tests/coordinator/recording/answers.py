"""Answers for tests of what keeps them: that of sample s has s % 7 tokens s, s + 1, ..."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from coordinator.recording.arrow_files import STREAM_NAME, StreamFile, read_stream
from coordinator.recording.outputs import MAX_WAITING_BYTES, Outputs

Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]
Row = tuple[int, list[int]]
EMPTY: Columns = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int32))


def new_outputs(
    run_dir: Path, on_error: Callable[[str], None], max_waiting_bytes: int = MAX_WAITING_BYTES
) -> Outputs:
    """Create outputs in the directory of a run that has begun."""
    return Outputs(StreamFile(run_dir / STREAM_NAME), run_dir, on_error, max_waiting_bytes)


def answer(sample: int) -> list[int]:
    """Give a sample's answer."""
    return list(range(sample, sample + sample % 7))


def columns(samples: list[int]) -> Columns:
    """Lay answers end to end."""
    answers = [answer(sample) for sample in samples]
    counts = np.array([len(tokens) for tokens in answers], np.int64)
    tokens = np.array([token for tokens in answers for token in tokens], np.int32)
    return np.array(samples, np.int64), counts, tokens


def long_columns(sample: int, num_tokens: int) -> Columns:
    """Make one long answer, whose tokens no compression makes short."""
    tokens = np.random.default_rng(sample).integers(0, 2**31 - 1, num_tokens, np.int32)
    return np.array([sample], np.int64), np.array([num_tokens], np.int64), tokens


def streamed(run_dir: Path) -> list[Row]:
    """Read outputs.arrows."""
    rows = [row for batch in read_stream(run_dir / "outputs.arrows") for row in batch.to_pylist()]
    return [(row["sample"], row["tokens"]) for row in rows]


def salvaged(run_dir: Path) -> list[tuple[int, list[int], str]]:
    """Read partial_outputs.parquet."""
    rows = pq.read_table(run_dir / "partial_outputs.parquet").to_pylist()
    return [(row["sample"], row["tokens"], row["state"]) for row in rows]
