"""The answers that the official evaluator would extract, by hand, in the forms of each data set."""

import pytest

from sut.results.accuracy.extraction import aime_integer, choice_letter, final_section, python_source
from tests.sut.accuracy_files import FINAL, final

SECTIONS = {
    f"{FINAL} C \n<|return|> D": "C",
    f"{FINAL}C": "C",
    f"<|return|>{FINAL}C<|return|>": "C",
    f"{FINAL}A<|return|>{FINAL}B<|return|>": "A",
    "<|channel|>final<|channel|>final 537<|message|>C": "C",
    f"<|channel|>final{FINAL}A<|return|>{FINAL}B<|return|>": "A",
    "<|channel|>final": None,
    "<|channel|>final<|channel|>analysis<|message|>C": None,
    "C": None,
    f"{FINAL}<|return|>": "",
}
LETTERS = {
    # The first letter of the final message, unless it begins a word.
    "C": "C",
    "c": "C",
    "E": None,
    " 3. (D) is right": "D",
    "B2": "B",
    "Because": None,
    "A careful look shows D": "A",
    final("B", draft="Answer: A"): "B",
    f"Answer: A{FINAL}B": "B",
    f"{FINAL}A<|return|>{FINAL}B<|return|>": "A",
    "['C']": "C",
    '["C"]': "C",
    # Markdown and escapes.
    "**C**": "C",
    "**Answer:** C": "C",
    r"\nC": "C",
    r"['It\'s answer: C']": "C",
    # Then the first letter behind the label.
    "The answer: B": "B",
    "ANSWER. D": "D",
    "Answer C": "C",
    "Answer:\n\n c": "C",
    "Say: Answer: A. No: Answer: B.": "A",
    final("so Answer: B", draft="Answer: A"): "B",
    "Answer: Because": None,
    "Reanswer: C": None,
    # Then the last letter behind a label in the whole text.
    "The answer = C": "C",
    "The final answer = Cat": None,
    "The answer = A; the answer = (b )": "B",
    "The answer (D) fits": "D",
    "It is the FINALANSWER = C": "C",
    r"the answer =\nC": "C",
    "The reanswer = C": None,
    "The answers = C": None,
    final("unsure", draft="the answer: D."): "D",
    final("unsure", draft="the answer = A, answer = D."): "D",
    # Forms that the official evaluator does not read.
    r"The answer is \boxed{C}": None,
    r"Answer: \boxed{C}": None,
    "The answer is C": None,
    "": None,
}
INTEGERS = {
    # The last box with digits, wherever it is.
    r"\boxed{70}": 70,
    r"\boxed{1}, then \boxed{2}": 2,
    r"\boxed{ 12 }": 12,
    r"\boxed{3}, then \boxed{x}": 3,
    r"\boxed{\text{3}}": None,
    r"\boxed{-3}": None,
    r"\boxed{3.0}": None,
    final("Answer: 7", draft=r"\boxed{5}"): 5,
    r"\boxed{5} Answer: 7": 5,
    # Then the last labeled integer.
    "Answer: 7": 7,
    "ANSWER:8\n": 8,
    "answer: 3, no, Answer: 4": 4,
    "Answer: 7.": None,
    "Answer: 70.": None,
    "Answer: 7x": None,
    "Answer 7": None,
    "The answer is 7": None,
    # From 0 to 999.
    r"\boxed{0}": 0,
    r"\boxed{007}": 7,
    r"\boxed{999}": 999,
    r"\boxed{1000}": None,
    r"\boxed{5}, then \boxed{1000}": None,
    "Answer: 1000": None,
    # Python converts at most 4,300 digits.
    rf"\boxed{{{'0' * 4299}7}}": 7,
    rf"\boxed{{{'0' * 4300}7}}": None,
    "\\boxed{\u0663}": 3,
    "7": None,
    "": None,
}
SOURCES = {
    # The last closed block that names Python, in the final message first.
    "```python\na = 1\n```": "a = 1",
    "```python\n\n  a = 1\n\n```": "a = 1",
    "```python\na\n```\n```python\nb\n```": "b",
    "```python\na\n```\n```python\nb": "a",
    "```python\na```python\nb```": "a",
    "```python\na\n```\n```\nb\n```": "a",
    "```python\n```": "",
    final("```python\nb\n```", draft="```python\na\n```"): "b",
    final("```\nb\n```", draft="```python\na\n```"): "b",
    f"{final('```python' + chr(10) + 'b```')}```python\nc```": "b",
    final("see above", draft="```python\na\n```"): "a",
    final("```python\nb", draft="```python\na\n```"): "a",
    # Then the last closed block, without a line that names the language.
    "```\na\n```\n```\nb\n```": "b",
    "```\na\n```\n```\nb": "a",
    "```\n\n  a = 1\n\n```": "a = 1",
    "```py\na\n```": "a",
    "```Python\na\n```": "a",
    "```PY  \n\na\n```": "a",
    "```py```": "py",
    "```cpp\nint a;\n```": "cpp\nint a;",
    "```pyx\na\n```": "pyx\na",
    "```\na\npy\nb\n```": "a\npy\nb",
    # Forms that the official evaluator takes as they are, or does not read.
    "```python3\na\n```": "3\na",
    "```python\na": None,
    "```\na": None,
    "a = 1": None,
    "": None,
}


@pytest.mark.parametrize("text", SECTIONS)
def test_the_first_final_message_is_the_section(text: str) -> None:
    """It ends at <|return|> or with the text; its header may hold other characters."""
    assert SECTIONS[text] == final_section(text)


@pytest.mark.parametrize("text", LETTERS)
def test_a_letter_is_extracted(text: str) -> None:
    """GPQA: the first letter, then a labeled one, then the last labeled one of the whole text."""
    assert LETTERS[text] == choice_letter(text)


@pytest.mark.parametrize("text", INTEGERS)
def test_an_integer_is_extracted(text: str) -> None:
    """AIME: the last box, then the last labeled integer, of the whole text."""
    assert INTEGERS[text] == aime_integer(text)


@pytest.mark.parametrize("text", SOURCES)
def test_a_program_is_extracted(text: str) -> None:
    """LiveCodeBench: the last block that names Python, then the last block of any kind."""
    assert SOURCES[text] == python_source(text)
