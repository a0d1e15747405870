"""What scoring an accuracy run needs is checked before the run."""

from pathlib import Path

import numpy as np
import pytest

from common.flags import FlagError
from sut.data_rules import check_scorable
from sut.dataset import Dataset

# Content of the data's file, rows by data set, file of tests; then the refusal, {d} is the directory.
BAD: dict[str, tuple[bytes, dict[str, int], str | None, str]] = {
    "a pickle": (b"\x80\x04", {"aime25": 2}, None, "--input-file {d}/data: is no parquet file"),
    "an unknown name": (
        b"PAR1",
        {"aime24": 2},
        None,
        "--input-file {d}/data: 'aime24' in the column dataset",
    ),
    "rows without a name": (b"PAR1", {"aime25": 1}, None, "--input-file {d}/data: has 1 rows without a name"),
    "no tests": (b"PAR1", {"aime25": 1, "LiveCodeBench_v6": 1}, None, "--lcb-tests: is missing"),
    "tests that are no file": (b"PAR1", {"aime25": 2}, "absent", "--lcb-tests {d}/absent: is no file"),
}


def check(directory: Path, content: bytes, rows: dict[str, int], tests: str | None) -> None:
    """Check a data set of two rows."""
    (directory / "data").write_bytes(content)
    (directory / "tokenizer.json").touch()
    data = Dataset(
        path=directory / "data",
        sha256="",
        tokens=np.zeros(2, np.int32),
        offsets=np.arange(3, dtype=np.int64),
        rows_by_dataset=rows,
    )
    check_scorable(data, directory, None if tests is None else directory / tests)


@pytest.mark.parametrize("name", BAD)
def test_data_that_cannot_be_scored_is_refused(tmp_path: Path, name: str) -> None:
    """The line names the flag, and the file or the name."""
    *given, refusal = BAD[name]
    with pytest.raises(FlagError) as found:
        check(tmp_path, *given)
    assert str(found.value).startswith(refusal.replace("{d}", str(tmp_path)))


def test_data_that_can_be_scored_is_accepted(tmp_path: Path) -> None:
    """Names count in any case; without rows of LiveCodeBench no tests are needed."""
    check(tmp_path, b"PAR1", {"AIME25": 1, "gpqa_diamond": 1}, None)
