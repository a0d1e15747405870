"""The pre-tokenised samples of a run, read from parquet or a pickled pandas DataFrame, one row per sample.

The schema is the reference's (mlcommons/inference, language/gpt-oss-120b): the token column is `tok_input`,
else `input_tokens`; a sample's QSL index is its row number. A process of its own reads the file. Bad input
raises a FlagError that names the flag, the file and, if known, the row, the value and the bound.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.arrow_buffers import to_numpy
from common.flags import FlagError
from sut.dataset_file import FACTS
from sut.dataset_process import read_in_process
from sut.prompt_columns import UnreadableError, check_ids

FLAG = "--input-file"


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
    """Names of the file's columns, the first 1,000."""
    rows_by_dataset: dict[str, int] = field(default_factory=dict)
    """Number of samples by their text in the column `dataset`, the 1,000 most frequent; other values of it
    are not counted."""

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
        with _refusing(self.path):
            check_ids(self.prompt_lens, self.tokens, vocab_size)
        row = int(self.prompt_lens.argmax())
        prompt_len = int(self.prompt_lens[row])
        if prompt_len + max_new_tokens > max_model_len:
            raise FlagError(
                FLAG,
                f"row {row}: {prompt_len} prompt tokens and --max-new-tokens {max_new_tokens} exceed "
                f"max_model_len {max_model_len} together",
                self.path,
            )


def load(path: Path, max_samples: int | None = None) -> Dataset:
    """Read a data set.

    The first bytes of the file tell the format; a pickle may be compressed with gzip, bzip2 or xz.

    Args:
        path: The file of `--input-file`.
        max_samples: Read only the first rows, this many; None: all.

    Raises:
        FlagError: The file cannot be read, or a row is not one or more integers in 0 <= id < 2**31.
    """
    if max_samples is not None and max_samples < 1:
        raise FlagError("--max-samples", f"{max_samples} is below 1")
    with _refusing(path):
        batch = read_in_process(path, max_samples)
    prompts = batch.column(0)
    facts = json.loads(batch.schema.metadata[FACTS])
    return Dataset(
        path=path,
        sha256=facts["sha256"],
        tokens=to_numpy(prompts.values),
        offsets=to_numpy(prompts.offsets),
        column_names=tuple(facts["column_names"]),
        rows_by_dataset=facts["rows_by_dataset"],
    )


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except UnreadableError as error:
        raise FlagError(FLAG, str(error), path) from error
