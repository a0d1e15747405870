"""Questions of the accuracy data, made up so that right and wrong answers to them are known."""

from typing import NamedTuple

from sut.benchmark import BENCHMARK

AIME, GPQA, LIVECODEBENCH = BENCHMARK.dataset_names
_LETTERS = "ABCD"


class Question(NamedTuple):
    """One question, its ground truth and the final messages of a right and of a wrong answer."""

    dataset: str
    text: str
    ground_truth: str
    right: str
    wrong: str


class CodeTests(NamedTuple):
    """Tests of a question of LIVECODEBENCH: standard inputs and the outputs that they need."""

    question_id: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def question(dataset: str, number: int) -> Question:
    """Make up a question.

    Args:
        dataset: Name of the data set.
        number: Number of the question in its data set, from 0.
    """
    if dataset == AIME:
        truth = number * 37 % 1000
        text = f"Question {number}: what is {number} times 37, modulo 1000?"
        return Question(dataset, text, str(truth), _boxed(truth), _boxed((truth + 1) % 1000))
    if dataset == GPQA:
        right, wrong = _LETTERS[number % 4], _LETTERS[(number + 1) % 4]
        text = f"Question {number}: which letter is number {number % 4} of A, B, C, D, counted from 0?"
        return Question(dataset, text, right, f"Answer: {right}", f"Answer: {wrong}")
    factor = _factor(number)
    text = f"Question {number}: read an integer and print it times {factor}."
    return Question(dataset, text, _question_id(number), _program(factor), _program(factor + 1))


def code_tests(number: int) -> CodeTests:
    """Return the tests of a question of LIVECODEBENCH."""
    inputs = (1, 7, -3)
    outputs = tuple(f"{value * _factor(number)}\n" for value in inputs)
    return CodeTests(_question_id(number), tuple(f"{value}\n" for value in inputs), outputs)


def _boxed(value: int) -> str:
    return rf"The answer is \boxed{{{value}}}."


def _program(factor: int) -> str:
    return f"```python\nprint(int(input()) * {factor})\n```"


def _factor(number: int) -> int:
    return 2 + number % 89


def _question_id(number: int) -> str:
    return f"synthetic_{number}"
