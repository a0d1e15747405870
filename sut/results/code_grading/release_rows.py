"""Read the rows of LiveCodeBench's public release: JSON lines or parquet, private tests packed in a pickle.

A row has `question_id`, `public_test_cases` (JSON), `private_test_cases` (JSON, or base64 of zlib of a
pickled JSON text) and `metadata` (JSON with `func_name` for a question that calls a function).
"""

import base64
import binascii
import json
import pickle
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from sut.results.code_grading.program import GradingError, QuestionFileError
from sut.results.code_grading.questions import MAX_LINE_BYTES, read_lines

_COLUMNS = ("question_id", "public_test_cases", "private_test_cases", "metadata")
_PARQUET_BATCH_ROWS = 4
# Errors of damaged base64, zlib, pickle and JSON data.
_DAMAGED = (binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, LookupError, TypeError, ValueError)


class _TextUnpickler(pickle.Unpickler):
    """Unpickles texts and containers; a pickle that names a class or function is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse a global."""
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    def persistent_load(self, _: object) -> NoReturn:
        """Refuse a reference to something outside."""
        raise pickle.UnpicklingError("it refers to something outside")


def read_release(path: Path) -> Iterator[dict[str, Any]]:
    """Convert the rows of one file of the release to lines of a file of tests.

    Raises:
        GradingError: The file cannot be read, or a row is not as the release has it.
    """
    try:
        for number, row in enumerate(_raw_rows(path), 1):
            yield _checked(row, f"{path}: row {number}")
    except OSError as error:
        raise GradingError(f"{path}: {error.strerror or 'is no parquet file'}") from error
    except pa.ArrowInvalid as error:
        raise GradingError(f"{path}: is no parquet file") from error
    except QuestionFileError as error:
        raise GradingError(f"{path}: {error}") from error


def _raw_rows(path: Path) -> Iterator[bytes | dict[str, Any]]:
    return _parquet_rows(path) if path.suffix == ".parquet" else read_lines(path)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file, pq.ParquetFile(file) as table:
        for batch in table.iter_batches(_PARQUET_BATCH_ROWS, columns=list(_COLUMNS)):
            yield from batch.to_pylist()


def _checked(row: bytes | dict[str, Any], where: str) -> dict[str, Any]:
    try:
        return _converted(json.loads(row) if isinstance(row, bytes) else row)
    except (RecursionError, *_DAMAGED) as error:
        raise GradingError(f"{where} is not as the release has it") from error


def _converted(row: dict[str, Any]) -> dict[str, Any]:
    cases = [*json.loads(row["public_test_cases"]), *_private_cases(row["private_test_cases"])]
    return {
        "question_id": row["question_id"],
        "fn_name": json.loads(row["metadata"]).get("func_name"),
        "tests": [{"input": case["input"], "output": case["output"]} for case in cases],
    }


def _private_cases(stored: str) -> Any:
    try:
        return json.loads(stored)
    except ValueError:
        return json.loads(_unpacked(stored))


def _unpacked(stored: str) -> str:
    """Unpack base64 of zlib of a pickled text, to at most the length of a line."""
    decompressor = zlib.decompressobj()
    pickled = decompressor.decompress(base64.b64decode(stored), MAX_LINE_BYTES)
    if not decompressor.eof:
        raise ValueError("cut, or longer than a line of a file of tests")
    text = _TextUnpickler(BytesIO(pickled)).load()
    if not isinstance(text, str):
        raise TypeError("no text")
    return text
