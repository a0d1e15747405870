"""Read the file of tests: one question a line, found by its id, read when a program needs it.

A line is a JSON object: `question_id`, `fn_name` (null for a program that reads stdin) and `tests`, a list of
objects with the texts `input` and `output`. sut.results.code_grading.convert writes it.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from common.text import printable
from sut.results.code_grading.program import QuestionFileError

MAX_LINE_BYTES = 1 << 30
"""The largest questions of the public release have some 100 MB of tests."""
_ID_FIRST = re.compile(rb'\{"question_id": ?"([\w.-]+)"')
_ID_PREFIX_LEN = 200


class QuestionError(Exception):
    """A question has no tests that can be used; the message is one line."""


class QuestionTest(NamedTuple):
    """One test of a question."""

    input: str
    output: str


class Question(NamedTuple):
    """The tests of a question."""

    fn_name: str | None
    """Name of the function that is called; None for a program that reads stdin."""
    tests: tuple[QuestionTest, ...]
    sha256: str
    """Digest of the question's line."""


class QuestionFile:
    """An open file of tests; threads may read it at the same time."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise QuestionFileError(str(error.strerror)) from error
        try:
            self._lines = _index(path)
        except OSError as error:
            os.close(self._fd)
            raise QuestionFileError(str(error.strerror)) from error
        except QuestionFileError:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        """Keep the file open until the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file."""
        os.close(self._fd)

    @property
    def ids(self) -> Collection[str]:
        """The questions, in the file's order."""
        return self._lines.keys()

    def read(self, question_id: str) -> Question:
        """Read and check the tests of a question.

        Raises:
            QuestionError: The file has no such question, or its line is not as the format says.
        """
        place = self._lines.get(question_id)
        if place is None:
            raise QuestionError("the file of tests has no such question")
        try:
            line = _read_at(self._fd, *place)
            return _parsed(line)
        except OSError as error:
            raise QuestionError(f"the file of tests cannot be read: {error.strerror}") from error
        except (LookupError, RecursionError, TypeError, ValueError) as error:
            raise QuestionError("its line in the file of tests is damaged") from error


def _index(path: Path) -> dict[str, tuple[int, int]]:
    """Map each question to offset and length of its line."""
    places: dict[str, tuple[int, int]] = {}
    offset = 0
    for number, line in enumerate(read_lines(path), 1):
        question_id = _question_id(line)
        if question_id is None:
            raise QuestionFileError(f"line {number} is no question: {printable(repr(line[:40]), 60)}")
        if question_id in places:
            raise QuestionFileError(f"line {number}: question {printable(question_id, 60)} is there twice")
        places[question_id] = (offset, len(line))
        offset += len(line)
    if not places:
        raise QuestionFileError("it has no question")
    return places


def read_lines(path: Path) -> Iterator[bytes]:
    """Read a file line by line, with their ends.

    Raises:
        QuestionFileError: A line is longer than MAX_LINE_BYTES.
    """
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise QuestionFileError(f"a line is longer than {MAX_LINE_BYTES} bytes")
            yield line


def _question_id(line: bytes) -> str | None:
    if found := _ID_FIRST.match(line[:_ID_PREFIX_LEN]):
        return found[1].decode()
    try:
        question_id = json.loads(line)["question_id"]
    except (LookupError, RecursionError, TypeError, ValueError):
        return None
    return question_id if isinstance(question_id, str) else None


def _read_at(fd: int, offset: int, size: int) -> bytes:
    parts = []
    while size and (part := os.pread(fd, size, offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def _parsed(line: bytes) -> Question:
    """Check a question's line.

    Raises:
        LookupError, TypeError, ValueError, RecursionError: The line is damaged.
    """
    entry = json.loads(line)
    fn_name, tests = (
        entry["fn_name"],
        tuple(QuestionTest(test["input"], test["output"]) for test in entry["tests"]),
    )
    if not tests or not isinstance(fn_name, str | None):
        raise ValueError("a question has at least one test")
    for test in tests:
        _check_test(test, fn_name)
    return Question(fn_name, tests, hashlib.sha256(line).hexdigest())


def _check_test(test: QuestionTest, fn_name: str | None) -> None:
    if not isinstance(test.input, str) or not isinstance(test.output, str):
        raise TypeError("input and output of a test are texts")
    if fn_name is not None:
        for text in (*test.input.split("\n"), test.output):
            _: Any = json.loads(text)
