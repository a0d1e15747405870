"""Data sets: what a loaded one tells, and what it refuses; a process of its own reads the file."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sut import dataset
from tests.sut.dataset_files import BOTH, PARQUET, PROMPTS, TOKENS, write

OFFSETS = [0, 3, 5, 6]


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("column", ["tok_input", "input_tokens"])
def test_both_formats_and_both_columns_are_read(tmp_path: Path, name: str, column: str) -> None:
    """A data set holds each row's tokens in row order and the file's hash, whatever the suffix."""
    path = write(tmp_path / name, PROMPTS, column)
    loaded = dataset.load(path)
    assert (loaded.tokens.tolist(), loaded.offsets.tolist()) == (TOKENS, OFFSETS)
    assert (loaded.tokens.dtype.name, loaded.offsets.dtype.name) == ("int32", "int64")
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.path, loaded.num_samples) == (path, 3)
    assert loaded.prompt_lens.tolist() == [3, 2, 1]
    assert [loaded.prompt(index).tolist() for index in range(3)] == PROMPTS
    renamed = dataset.load(path.rename(tmp_path / "set.bin"))
    assert (renamed.tokens.tolist(), renamed.offsets.tolist()) == (TOKENS, OFFSETS)


@pytest.mark.parametrize("name", BOTH)
def test_columns_and_rows_by_dataset_are_told(tmp_path: Path, name: str) -> None:
    """A data set has the names of all columns, and counts the read rows by their text in `dataset`."""
    frame = pd.DataFrame({"dataset": ["a", "b", "a", None], "tok_input": [*PROMPTS, [1]], "n": [1, 2, 3, 4]})
    path = tmp_path / name
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_pickle(path)
    loaded = dataset.load(path)
    assert loaded.column_names == ("dataset", "tok_input", "n")
    assert loaded.rows_by_dataset == {"a": 2, "b": 1}
    assert dataset.load(path, 2).rows_by_dataset == {"a": 1, "b": 1}
    without = dataset.load(write(path, PROMPTS))
    assert (without.column_names, without.rows_by_dataset) == (("tok_input",), {})


@pytest.mark.parametrize("name", BOTH)
def test_max_samples_takes_the_first_rows(tmp_path: Path, name: str) -> None:
    """With max_samples 2 the third row is not checked; a number above the rows is refused."""
    path = write(tmp_path / name, [*PROMPTS[:2], []])
    assert dataset.load(path, 2).tokens.tolist() == [4, 9, 17, 2, 5]
    with pytest.raises(ValueError, match=r": has 3 rows, fewer than --max-samples 4$"):
        dataset.load(path, 4)
    with pytest.raises(ValueError, match=r"^--max-samples: 0 is below 1$"):
        dataset.load(path, 0)


def test_gather_puts_prompts_end_to_end(tmp_path: Path) -> None:
    """Gather keeps the given order, allows repeats and no indices, and refuses an index out of range."""
    loaded = dataset.load(write(tmp_path / PARQUET, PROMPTS))
    lens, tokens = loaded.gather(np.array([2, 0, 2]))
    assert (lens.tolist(), tokens.tolist()) == ([1, 3, 1], [300, 4, 9, 17, 300])
    assert (lens.dtype.name, tokens.dtype.name) == ("uint32", "int32")
    lens, tokens = loaded.gather(np.zeros(0, np.int64))
    assert (len(lens), len(tokens), tokens.dtype.name) == (0, 0, "int32")
    with pytest.raises(IndexError):
        loaded.gather(np.array([3]))


def test_a_data_set_cannot_be_changed(tmp_path: Path) -> None:
    """Prompts are read-only views; gather returns a writable copy."""
    loaded = dataset.load(write(tmp_path / PARQUET, PROMPTS))
    assert loaded.prompt(1).base is loaded.tokens
    with pytest.raises(ValueError, match="read-only"):
        loaded.prompt(1)[0] = 0
    loaded.gather(np.array([1]))[1][0] = 0
    assert loaded.tokens.tolist() == TOKENS


def test_check_accepts_exactly_what_fits(tmp_path: Path) -> None:
    """An id of vocab_size - 1 and a prompt that leaves exactly max_new_tokens pass; one more is refused."""
    loaded = dataset.load(write(tmp_path / PARQUET, PROMPTS))
    loaded.check(vocab_size=301, max_model_len=13, max_new_tokens=10)
    with pytest.raises(ValueError, match=r"set.parquet: row 2: token 300 is outside 0 <= id < 300$"):
        loaded.check(vocab_size=300, max_model_len=13, max_new_tokens=10)
    message = "row 0: 3 prompt tokens and --max-new-tokens 10 exceed max_model_len 12 together"
    with pytest.raises(ValueError, match=f"^--input-file .*set.parquet: {message}$"):
        loaded.check(vocab_size=301, max_model_len=12, max_new_tokens=10)
