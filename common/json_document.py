"""Reads JSON that another program, another version or a user wrote: entries may be missing or of any type."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

from common.bounded_file import MAX_TEXT_BYTES, read_bounded
from common.flags import FlagError

JsonObject = Mapping[str, object]


def parse_json(content: bytes | str) -> object:
    """Parse JSON.

    Raises:
        ValueError: It is not JSON, or nested too deeply.
    """
    try:
        parsed: object = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return parsed


def parse_object(content: bytes | str) -> dict[str, object]:
    """Parse one JSON object.

    Raises:
        ValueError: It is anything else; the message continues a sentence that begins with the file's name.
    """
    try:
        found = parse_json(content)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"holds a {type(found).__name__}, not an object")
    return found


def read_object(path: Path, flag: str, max_bytes: int = MAX_TEXT_BYTES) -> dict[str, object]:
    """Read a JSON file that holds one object.

    Args:
        path: The file.
        flag: Names the file in an error.
        max_bytes: Bound of its size.

    Raises:
        FlagError: It cannot be read, or holds anything else.
    """
    try:
        return parse_object(read_bounded(path, max_bytes))
    except OSError as error:
        raise FlagError(flag, str(error.strerror or error), path) from error
    except ValueError as error:
        raise FlagError(flag, str(error), path) from error


def value_or_text(text: str) -> object:
    """Decode a value that is sent as JSON; a text that is not JSON stays as it is."""
    try:
        return parse_json(text)
    except ValueError:
        return text


def entry(document: object, *keys: str | int) -> object:
    """Return an entry of nested JSON objects and lists, by names and indices; None if it is missing."""
    for key in keys:
        if isinstance(document, Mapping):
            document = document.get(key)
        elif isinstance(document, list) and isinstance(key, int) and -len(document) <= key < len(document):
            document = document[key]
        else:
            return None
    return document


def as_mapping(document: object) -> JsonObject:
    """Return a JSON object; empty if it is anything else."""
    return document if isinstance(document, Mapping) else {}


def as_list(document: object) -> list[object]:
    """Return a JSON list; empty if it is anything else."""
    return document if isinstance(document, list) else []


def as_mappings(document: object) -> list[JsonObject]:
    """Return the JSON objects of a list."""
    return [part for part in as_list(document) if isinstance(part, Mapping)]


def as_text(document: object) -> str:
    """Return a JSON text; empty if it is anything else."""
    return document if isinstance(document, str) else ""


def is_number(document: object) -> TypeGuard[int | float]:
    """Return whether a JSON value is a number that a float can hold: neither NaN nor infinite."""
    return (
        isinstance(document, int | float)
        and not isinstance(document, bool)
        and abs(document) <= sys.float_info.max
    )


def as_number(document: object) -> float | None:
    """Return a number that a float can hold; None if it is anything else."""
    return float(document) if is_number(document) else None
