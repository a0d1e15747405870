"""Read mlperf_log_accuracy.json entry by entry, in bounded memory.

Accepts what the official evaluator accepts, a JSON array of objects; LoadGen writes one object a line.
"""

import codecs
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.text import printable

_CHUNK_BYTES = 1 << 20
# The longest official answer has 32,768 tokens of 8 characters: 256 KiB.
_MAX_ENTRY_CHARS = 16 << 20
_SHOWN_CHARS = 30
_SPACE = " \t\n\r"


class LogError(ValueError):
    """An accuracy log cannot be scored; one line, without the file's name."""


class LoggedAnswer(NamedTuple):
    """One entry of the log."""

    entry: int
    """Position in the array, from 0."""
    sample_index: int
    token_ids: NDArray[np.int32]
    """Shape (N,)."""


class AnswerLog:
    """The entries of one log; each iteration reads the file anew."""

    def __init__(self, path: Path) -> None:
        """Name the file; it is opened by the first iteration."""
        self.path = path
        self.sha256 = ""
        """Of the file as the last complete iteration read it."""

    def __iter__(self) -> Iterator[LoggedAnswer]:
        """Read the entries in file order.

        Raises:
            LogError: The file is no whole JSON array of entries, or changed since the last iteration.
        """
        digest = hashlib.sha256()
        for entry, value in enumerate(_array(_Text(self.path, digest))):
            yield _answer(entry, value)
        sha256 = digest.hexdigest()
        if self.sha256 not in ("", sha256):
            raise LogError("changed while it was read")
        self.sha256 = sha256


class _Text:
    """The unread beginning of a text file that is read in chunks."""

    def __init__(self, path: Path, digest: "hashlib._Hash") -> None:
        self.buffer = ""
        self.at = 0
        self._chunks = _decoded_chunks(path, digest)

    def extend(self) -> bool:
        """Read on, at least as much as is unread; False at the end of the file."""
        parts = [self.buffer[self.at :]]
        wanted = len(parts[0])
        while chunk := next(self._chunks, ""):
            parts.append(chunk)
            wanted -= len(chunk)
            if wanted <= 0:
                break
        self.buffer, self.at = "".join(parts), 0
        return len(parts) > 1

    def peek(self) -> str:
        """Return the next character that is no space; empty at the end of the file."""
        while True:
            while self.at < len(self.buffer) and self.buffer[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.extend():
                return ""

    def take(self, expected: str) -> bool:
        """Skip the next character if it is the expected one."""
        found = self.peek() == expected
        self.at += found
        return found

    def value(self, entry: int) -> object:
        """Decode the next JSON value.

        Raises:
            LogError: It is not JSON, too long, or not whole.
        """
        while True:
            try:
                value, self.at = _DECODER.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                if len(self.buffer) - self.at > _MAX_ENTRY_CHARS:
                    raise LogError(f"entry {entry} is no JSON object: {error.msg}") from error
                if not self.extend():
                    raise LogError(f"entry {entry} is truncated or no JSON object: {error.msg}") from error
            except RecursionError as error:
                raise LogError(f"entry {entry} is nested too deeply") from error
            except ValueError as error:  # Python converts at most 4,300 digits
                raise LogError(f"entry {entry} has a number of too many digits") from error
            else:
                return value


_DECODER = json.JSONDecoder()


def _decoded_chunks(path: Path, digest: "hashlib._Hash") -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                # A chunk that ends within a character may decode to nothing: never an end of the file.
                if text := decoder.decode(chunk):
                    yield text
    except OSError as error:
        raise LogError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LogError(f"is no UTF-8 text: {error.reason}") from error


def _array(text: _Text) -> Iterator[object]:
    if not text.take("["):
        found = printable(text.buffer[text.at : text.at + _SHOWN_CHARS], _SHOWN_CHARS)
        raise LogError(f"is no JSON array: begins with {found!r}" if found else "is empty")
    entry = 0
    closed = text.take("]")
    while not closed:
        if text.peek():
            yield text.value(entry)
            entry += 1
        closed = text.take("]")
        if not closed and not text.take(","):
            raise LogError(f"is truncated: the array is not closed after {entry} entries")
    if text.peek():
        raise LogError(f"has text after the end of the array of {entry} entries")


def _answer(entry: int, value: object) -> LoggedAnswer:
    if not isinstance(value, dict):
        raise LogError(f"entry {entry} is no JSON object")
    # The official evaluator reads these three keys of every entry.
    for key in ("seq_id", "qsl_idx", "data"):
        if key not in value:
            raise LogError(f"entry {entry} has no {key}")
    sample_index, data = value["qsl_idx"], value["data"]
    if not isinstance(sample_index, int) or isinstance(sample_index, bool):
        raise LogError(f"entry {entry}: qsl_idx is no integer")
    return LoggedAnswer(entry, sample_index, _tokens(entry, data))


def _tokens(entry: int, data: object) -> NDArray[np.int32]:
    try:
        content = bytes.fromhex(data if isinstance(data, str) else "?")
        token_ids = np.frombuffer(content, "<i4")
    except ValueError as error:
        raise LogError(f"entry {entry}: data is no hexadecimal text of whole int32 tokens") from error
    if len(token_ids) and int(token_ids.min()) < 0:
        raise LogError(f"entry {entry}: token {int(token_ids.min())} is negative")
    return token_ids
