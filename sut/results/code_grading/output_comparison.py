"""Compare a test's output with the expected one, as LiveCodeBench's evaluator does (release_v6)."""

import json
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

_MAX_ENCODED_PER_CHAR, _MAX_ENCODED_EXTRA = 64, 1024
"""Bound of a right result's encoding by the expected JSON: the int 1e308 has 256 hex digits."""

_DECODED_DEPTH = 300
"""Results that are nested less deeply are decoded within Python's recursion limit."""


class UnreadableResultError(Exception):
    """A result is not what the runner writes."""


class OneElementArray:
    """An array of numpy with one element: equal to that element in any number of lists."""

    def __init__(self, element: object) -> None:
        self._element = element

    def __eq__(self, other: object) -> bool:
        """Compare the element, as numpy does after broadcasting."""
        while isinstance(other, list) and len(other) == 1:
            other = other[0]
        return self._element == other

    __hash__ = None  # type: ignore[assignment]


def printed_matches(printed: str, expected: str) -> bool:
    """Compare printed text: line by line, stripped; unequal lines word by word as decimal numbers."""
    printed_lines = [line.strip() for line in printed.strip().split("\n")]
    expected_lines = [line.strip() for line in expected.strip().split("\n")]
    if len(printed_lines) != len(expected_lines):
        return False
    return all(map(_line_matches, printed_lines, expected_lines))


def _line_matches(printed: str, expected: str) -> bool:
    if printed == expected:
        return True
    try:
        return list(map(Decimal, printed.split())) == list(map(Decimal, expected.split()))
    except (InvalidOperation, ValueError):  # no numbers, or a signalling NaN
        return False


def max_encoded_len(expected: str) -> int:
    """Bound of the encoded results that can equal the expected JSON."""
    return len(expected) * _MAX_ENCODED_PER_CHAR + _MAX_ENCODED_EXTRA


def returned_matches(encoded: bytes, expected: str) -> bool:
    """Compare the encoded result of a call with the expected JSON, with Python's equality.

    Raises:
        UnreadableResultError: The runner does not write such a result.
    """
    try:
        return bool(_decoded(json.loads(encoded)) == json.loads(expected))
    except RecursionError as error:
        if expected.count("[") + expected.count("{") < _DECODED_DEPTH:
            return False  # nested deeper than the expected result
        raise UnreadableResultError from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UnreadableResultError from error


def _decoded(encoded: Any) -> object:
    if not isinstance(encoded, list):
        return encoded
    return _DECODERS[encoded[0]](encoded[1:])


def _decoded_key(encoded: Any) -> object:
    """Decode the key of a dict; expected keys are texts, so any other only has to be hashable."""
    return object() if isinstance(encoded, list) else encoded


_DECODERS: dict[str, Callable[[list[Any]], object]] = {
    "i": lambda content: int(content[0], 16),
    "f": lambda content: float.fromhex(content[0]),
    "r": lambda content: Fraction(int(content[0], 16), int(content[1], 16)),
    "l": lambda content: list(map(_decoded, content)),
    "d": lambda content: {_decoded_key(key): _decoded(item) for key, item in content},
    "a": lambda content: OneElementArray(_decoded(content[0])),
    "o": lambda _: object(),  # equal to nothing
}
