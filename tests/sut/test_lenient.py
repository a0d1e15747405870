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
    "(C) or (D)?": "C",
    "D": "D",
    "D\nbecause": "D",
    "C-like": None,
    # The last box, the last statement.
    r"\boxed{A}, no, \boxed{B}": "B",
    r"\boxed{(B).}": "B",
    r"\boxed{}": None,
    r"\boxed{AB}, answer: C": "C",
    r"\boxed{A": None,
    "Answer: A. No, answer: B": "B",
    "The answer is C'": None,
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
    r"\boxed{1}, no, \boxed{2}": 2,
    r"\boxed{x}, the answer is 7": 7,
    r"\boxed{7": 7,
    r"\boxed{\frac{1}{2}}": None,
    "The answer is 7 of 12": 7,
    "999": 999,
    "1000": None,
    "0": 0,
    r"\boxed{1000}, answer: 7": None,
}
SOURCES = {
    "```python3\nx = 1\n```": "x = 1",
    "```py\nx = 1": "x = 1",
    "```cpp\nint x;\n```": None,
    "```\nx = 1\n```\n```text\nout\n```": "x = 1",
    "x = 1": None,
    "so:\n```Python\nx = 1\n```": "x = 1",
    "```python\nx = 1\n```": "x = 1",
    "```py3\nx = 1\n```": "x = 1",
    "``` python 3\nx = 1\n```": "x = 1",
    "```python\nx = 1\n```\n```python\ny = 2\n```": "y = 2",
    "```python\nx = 1\n```\n```python\n": "",
    "``````": "",
}
MESSAGES = {
    "<|channel|>final<|message|> A \n<|return|>": "A",
    "<|channel|>final<|message|>A<|return|><|channel|>final<|message|>B<|end|>C": "B",
    "<|channel|>final 537<|message|>A": "A",
    "<|channel|>final<|message|>A<|call|>": "A",
    "<|channel|>final<|message|>A<|start|>assistant": "A",
    "<|channel|>final<|message|>A<|channel|>analysis<|message|>B": "A",
    # A header without a message is none: the one before it counts.
    "<|channel|>final<|message|>A<|return|><|channel|>final": "A",
    "<|channel|>final<|message|>A<|return|><|channel|>final<|end|>": "A",
    "<|channel|>final": None,
    "<|channel|>analysis<|message|>A": None,
    "A": None,
}


@pytest.mark.parametrize("text", MESSAGES)
def test_the_last_final_message_is_read(text: str) -> None:
    """Up to any mark that ends a message, or to the end of the text."""
    assert MESSAGES[text] == last_final_message(text)


@pytest.mark.parametrize("family", list(Family))
def test_without_a_final_message_nothing_is_read(family: Family) -> None:
    """The second opinion never reads a draft."""
    assert read_leniently(family, None) is None


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
