"""Read the data sets and ground truths of the accuracy data: parquet only, never a pickle."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from common.text import printable
from sut.benchmark import BENCHMARK
from sut.results.accuracy.data_sets import DataSetError, Family, GroundTruth, families

_MAGIC = b"PAR1"
_MAX_NAME_LEN = 60
_ERRORS = (pa.ArrowException, LookupError, TypeError, ValueError)


class ReferenceDataError(Exception):
    """The reference data cannot be used; one line, without the file's name."""


@dataclass(frozen=True, slots=True)
class ReferenceData:
    """What grading needs of the rows; a row's number is the sample index."""

    names: list[str]
    """Data set of each row, in lower case."""
    truths: list[GroundTruth]
    families: dict[str, Family]
    """By data set."""
    sha256: str
    """Of the whole file."""

    @property
    def num_rows(self) -> int:
        """Number of rows to grade."""
        return len(self.names)

    def family(self, row: int) -> Family:
        """Return the family of a row's data set."""
        return self.families[self.names[row]]


def read_reference(path: Path, max_samples: int | None = None) -> ReferenceData:
    """Read a parquet file's first rows, by default all.

    Raises:
        ReferenceDataError: It is not the accuracy data.
    """
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ReferenceDataError("is no parquet file; the evaluation reads no other format")
        table = pq.read_table(path, columns=_columns(path))
        names, truths = (table.column(name).to_pylist() for name in BENCHMARK.grading_columns)
    except OSError as error:
        raise ReferenceDataError(f"cannot be read: {error.strerror or error}") from error
    except _ERRORS as error:
        raise ReferenceDataError(f"is no readable parquet file: {printable(str(error), 200)}") from error
    return _reference(names[:max_samples], truths[:max_samples], sha256)


def _columns(path: Path) -> list[str]:
    found = pq.read_schema(path).names
    for name in BENCHMARK.grading_columns:
        if found.count(name) != 1:
            many = f"{found.count(name)} columns {name}, not one"
            raise ReferenceDataError(f"has {many if name in found else f'no column {name}'}")
    return list(BENCHMARK.grading_columns)


def _reference(names: list[object], truths: list[object], sha256: str) -> ReferenceData:
    if not names:
        raise ReferenceDataError("has no rows")
    lower = []
    for row, (name, truth) in enumerate(zip(names, truths, strict=True)):
        if not isinstance(name, str) or not name:
            raise ReferenceDataError(f"row {row} has no name in the column dataset")
        if not isinstance(truth, str | int | float | None):
            raise ReferenceDataError(f"row {row}: ground_truth is neither text nor a number")
        lower.append(printable(name, _MAX_NAME_LEN).lower())
    try:
        return ReferenceData(lower, truths, families(lower), sha256)  # type: ignore[arg-type]  # checked
    except DataSetError as error:
        raise ReferenceDataError(str(error)) from error
