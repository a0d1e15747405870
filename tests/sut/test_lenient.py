"""The second opinion reads what a person would read."""

import time

import pytest

from sut.results.accuracy.data_sets import Family, extract
from sut.results.accuracy.lenient import last_final_message, read_leniently

LETTERS = {
    "The answer is C.": "C",
    "answer is (B)": "B",
    r"Answer: $\boxed{D}$": "D",
    r"\boxed{\text{A}}": "A",
    "**Final answer:** **C**": "C",
    "C) because": "C",
    "A careful look": None,
    "The answer is a number": None,
    "Option B is right": "B",
    "The correct answer is option D.": "D",
    "It is C": None,
}
INTEGERS = {
    r"\boxed{\text{70}}": 70,
    r"$\boxed{070}$": 70,
    r"\boxed{1{,}000}": None,
    "Answer: 70.": 70,
    "**Answer:** 70": 70,
    "The answer is 12, not 13": 12,
    "It is 5, then 7": 7,
    "None": None,
}
SOURCES = {
    "```python3\nx = 1\n```": "x = 1",
    "```py\nx = 1": "x = 1",
    "```cpp\nint x;\n```": None,
    "```\nx = 1\n```\n```text\nout\n```": "x = 1",
    "x = 1": None,
}


@pytest.mark.parametrize("message", LETTERS)
def test_a_letter_is_read(message: str) -> None:
    """A box first, then a stated letter, then a letter at the beginning that is no word."""
    assert LETTERS[message] == read_leniently(Family.GPQA, message)


@pytest.mark.parametrize("message", INTEGERS)
def test_an_integer_is_read(message: str) -> None:
    """A box first, LaTeX around the digits or not, then a stated number, then the last one."""
    assert INTEGERS[message] == read_leniently(Family.AIME, message)


@pytest.mark.parametrize("message", SOURCES)
def test_a_program_is_read(message: str) -> None:
    """The last block that is Python or names no language; it may lack its end."""
    assert SOURCES[message] == read_leniently(Family.CODE, message)


@pytest.mark.parametrize(
    "unit", ["ANSWER ", "FINAL\n", " ", "1", "**a", "<|channel|>final<", r"\boxed{ ", "```"]
)
def test_a_long_repetition_takes_linear_time(unit: str) -> None:
    """128 KiB of one piece, as long as the longest answer, take 0.2 s in both ways, and not minutes."""
    text = f"<|channel|>final<|message|>Answer{unit * (131_072 // len(unit))} x"
    start_s = time.process_time()
    for family in Family:
        extract(family, text)
        read_leniently(family, last_final_message(text))
    assert time.process_time() - start_s < 10.0
