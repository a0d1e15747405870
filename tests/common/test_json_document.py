"""Reading of JSON whose entries may be missing or of any type."""

import math
from pathlib import Path

import pytest

from common.flags import FlagError
from common.json_document import as_number, as_text, entry, parse_object, read_object, value_or_text

DOCUMENT = {"host": {"cores": 2}, "workers": [{"frames": 7}, {"frames": 8}], "dataset": None}
NESTED = "[" * 100_000


@pytest.mark.parametrize(
    "keys, found",
    [
        (("host", "cores"), 2),
        (("workers", 1, "frames"), 8),
        (("workers", -1, "frames"), 8),
        (("workers", 2, "frames"), None),
        (("workers", "frames"), None),
        (("dataset", "sha256"), None),
        (("host", "cores", "more"), None),
        (("absent",), None),
    ],
)
def test_an_entry_that_is_missing_is_none(keys: tuple[str | int, ...], found: object) -> None:
    """Names and indices lead to an entry; where a part is missing or of another type, there is none."""
    assert found == entry(DOCUMENT, *keys)


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400, -(10**400), True, "7", None, [7]])
def test_what_no_float_holds_is_no_number(value: object) -> None:
    """NaN, infinity, larger integers, booleans and texts are no numbers."""
    assert as_number(value) is None


def test_a_number_and_a_text_are_themselves() -> None:
    """Integers become floats; only texts are texts."""
    assert (7.0, 0.5, "7", "") == (as_number(7), as_number(0.5), as_text("7"), as_text(7))


@pytest.mark.parametrize(
    "text, value", [('{"a": 1}', {"a": 1}), ("mxfp4", "mxfp4"), (NESTED, NESTED), ("", "")]
)
def test_a_text_that_is_not_json_stays(text: str, value: object) -> None:
    """A value as JSON is decoded; other text, also JSON nested too deeply, is returned as it is."""
    assert value == value_or_text(text)


@pytest.mark.parametrize(
    "content, reason",
    [
        ("[1]", "holds a list, not an object"),
        (NESTED, "is not JSON: nested too deeply"),
        (b"\xff", "is not JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
)
def test_only_an_object_is_accepted(content: str | bytes, reason: str) -> None:
    """Anything else than one object is refused with the reason."""
    with pytest.raises(ValueError) as refused:
        parse_object(content)
    assert reason == str(refused.value)


def test_a_file_is_refused_with_flag_and_path(tmp_path: Path) -> None:
    """A file that is missing, too long or no object is named with its flag."""
    path = tmp_path / "sums.json"
    seen = []
    for content in (None, "{}", "[]", '{"a": 1}'):
        if content is not None:
            path.write_text(content)
        try:
            seen.append(str(read_object(path, "--expected", 7)))
        except FlagError as error:
            seen.append(str(error))
    assert [
        f"--expected {path}: No such file or directory",
        "{}",
        f"--expected {path}: holds a list, not an object",
        f"--expected {path}: is longer than 7 bytes",
    ] == seen
