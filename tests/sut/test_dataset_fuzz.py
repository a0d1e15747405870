"""Fuzzed data sets: whatever a damaged file holds, it is read or refused in one line."""

import gzip
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sut.dataset_file import MAX_LINE_LEN
from sut.dataset_process import read_in_process
from sut.prompt_columns import UnreadableError
from tests.sut.dataset_files import PROMPTS, read_here

NUM_SHORT, NUM_LONG = 300, 5_000
# Processes of the reader: each takes a quarter of a second.
NUM_STARTED, NUM_STARTED_LONG = 6, 200


def files(directory: Path) -> list[bytes]:
    """Write frames of every kind that is read."""
    frame = pd.DataFrame({"tok_input": PROMPTS, "dataset": ["a", "b", None], "other": [0.5, None, 1]})
    arrays = frame.assign(tok_input=[np.array(prompt) for prompt in PROMPTS])
    categories = frame.assign(dataset=frame["dataset"].astype("category"))
    frame.to_parquet(directory / "plain.parquet")
    frame.to_parquet(directory / "small.parquet", compression="gzip", use_dictionary=False)
    frame.to_pickle(directory / "lists.pkl")
    frame.to_pickle(directory / "old.pkl", protocol=2)
    arrays.to_pickle(directory / "arrays.pkl")
    categories.to_pickle(directory / "categories.pkl")
    (directory / "set.pkl.gz").write_bytes(gzip.compress((directory / "lists.pkl").read_bytes()))
    return [path.read_bytes() for path in sorted(directory.iterdir())]


def damage(content: bytes, seed: int) -> bytes:
    """Change, remove, repeat or move a few bytes."""
    source = random.Random(seed)
    changed = bytearray(content)
    for _ in range(source.choice((1, 1, 2, 8))):
        place, size = source.randrange(len(changed)), source.choice((1, 1, 4, 16))
        match source.randrange(5):
            case 0:
                changed[place] = source.randrange(256)
            case 1:
                changed[place] ^= 1 << source.randrange(8)
            case 2:
                changed[place : place + size] = source.choice((b"\0", b"\xff")) * size
            case 3:
                changed[place:place] = changed[place : place + size]
            case _:
                del changed[place : place + source.choice((1, size, len(changed) // 4))]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def outcome(read: Callable[[Path], object], path: Path) -> str:
    """Read a file; returns what became of it."""
    try:
        read(path)
    except UnreadableError as error:
        line = str(error)
        assert line
        return line
    except MemoryError:
        return "memory"
    return "read"


@contextmanager
def limited_memory() -> Iterator[None]:
    """Limit this process's address space, as the process of the reader limits its own."""
    old = resource.getrlimit(resource.RLIMIT_AS)
    used_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used_bytes + (1 << 30), old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)


def fuzz(directory: Path, num: int, read: Callable[[Path], object], first_seed: int = 0) -> list[str]:
    """Read damaged files."""
    (directory / "whole").mkdir()
    contents = files(directory / "whole")

    def one(seed: int) -> str:
        path = directory / f"damaged-{seed}"
        path.write_bytes(damage(contents[seed % len(contents)], seed))
        try:
            return outcome(read, path)
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
        finally:
            path.unlink()

    seeds = range(first_seed, first_seed + num)
    if read is read_here:
        with limited_memory():
            return list(map(one, seeds))
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, seeds))


def in_process(path: Path) -> object:
    """Read a file as a run does."""
    return read_in_process(path, None, timeout_s=60)


def test_a_damaged_pickle_or_parquet_file_is_read_or_refused(tmp_path: Path) -> None:
    """Damaged files end as rows or as a refusal, never as another error; both ends are reached."""
    outcomes = fuzz(tmp_path, NUM_SHORT, read_here)
    assert 0 < outcomes.count("read") < NUM_SHORT / 2


def test_the_process_turns_damage_into_one_line(tmp_path: Path) -> None:
    """The same through the process that a run starts."""
    assert len(fuzz(tmp_path, NUM_STARTED, in_process)) == NUM_STARTED


@pytest.mark.long
def test_many_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """5,000 damaged pickles and parquet files, and 200 through the process of its own."""
    outcomes = fuzz(tmp_path, NUM_LONG, read_here, first_seed=NUM_SHORT)
    assert 0 < outcomes.count("read") < NUM_LONG / 2
    shutil.rmtree(tmp_path / "whole")
    started = fuzz(tmp_path, NUM_STARTED_LONG, in_process, first_seed=NUM_LONG)
    assert all("\n" not in line and len(line) <= MAX_LINE_LEN for line in started)
