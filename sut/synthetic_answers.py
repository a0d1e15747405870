"""Write random answers to the prompts of a data set: what `--engine replay` returns."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from common.flags import Flag, FlagError, Flags
from sut.benchmark import BENCHMARK
from sut.dataset import Dataset, load
from sut.synthetic_files import EXISTS, MAX_SEED, MIN_LEN, check_bounds, draw_lens, temporary

# Rows written at a time.
_BATCH_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswersSpec(Flags):
    """Lengths of synthetic answers, in tokens, their stop ids included."""

    input_file: Annotated[Path, Flag("data set with the prompts")]
    seed: Annotated[int, Flag("random seed; equal seeds give equal answers", ge=0, le=MAX_SEED)] = 0
    mean_answer_len: Annotated[float, Flag("mean length of the answers, approximately", ge=MIN_LEN)] = (
        BENCHMARK.mean_answer_len
    )
    max_answer_len: Annotated[int, Flag("length of the longest answer", ge=MIN_LEN, le=2**31)] = (
        BENCHMARK.performance_max_new_tokens.value
    )

    def _check_together(self) -> None:
        check_bounds("mean-answer-len", self.mean_answer_len, MIN_LEN, self.max_answer_len)


def write_answers(output: Path, spec: AnswersSpec, *, overwrite: bool = False) -> None:
    """Write one answer of random tokens for each row of a data set; if that fails, `output` is unchanged.

    Raises:
        FlagError: `output` exists, or the data set cannot be read.
        OSError: The file cannot be written.
    """
    if output.is_dir() or (output.exists() and not overwrite):
        raise FlagError("--output", "is a directory" if output.is_dir() else EXISTS, output)
    dataset = load(spec.input_file)
    rng = np.random.default_rng(spec.seed)
    lens = draw_lens(rng, dataset.num_samples, spec.mean_answer_len, spec.max_answer_len)
    with temporary(output) as path:
        # An open file, as in write_table.
        with path.open("wb") as file, pq.ParquetWriter(file, _batch([], []).schema) as writer:
            for batch in _batches(dataset, lens, rng):
                writer.write_batch(batch)
        path.replace(output)


def _batches(dataset: Dataset, lens: NDArray[np.int64], rng: np.random.Generator) -> Iterator[pa.RecordBatch]:
    for first in range(0, len(lens), _BATCH_ROWS):
        rows = range(first, min(first + _BATCH_ROWS, len(lens)))
        answers = [rng.integers(BENCHMARK.first_special_id, size=lens[row], dtype=np.int32) for row in rows]
        for answer in answers:
            answer[-1] = BENCHMARK.stop_ids[0].token_id
        yield _batch([dataset.prompt(row) for row in rows], answers)


def _batch(prompts: list[NDArray[np.int32]], answers: list[NDArray[np.int32]]) -> pa.RecordBatch:
    kind = pa.list_(pa.int32())
    columns = [pa.array(column, kind) for column in (prompts, answers)]
    return pa.RecordBatch.from_arrays(columns, ["input_tokens", "output_tokens"])
