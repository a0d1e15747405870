"""Questions of the accuracy data, made up so that right and wrong answers to them are known."""

import json
from typing import NamedTuple

from sut.benchmark import BENCHMARK

AIME, GPQA, LIVECODEBENCH = BENCHMARK.dataset_names
_LETTERS = "ABCD"


class SyntheticQuestion(NamedTuple):
    """One question, its ground truth and the final messages of a right and of a wrong answer."""

    dataset: str
    text: str
    ground_truth: str
    right: str
    wrong: str


def question(dataset: str, number: int) -> SyntheticQuestion:
    """Make up a question.

    Args:
        dataset: Name of the data set.
        number: Number of the question in its data set, from 0.
    """
    if dataset == AIME:
        truth = number * 37 % 1000
        text = f"SyntheticQuestion {number}: what is {number} times 37, modulo 1000?"
        return SyntheticQuestion(dataset, text, str(truth), _boxed(truth), _boxed((truth + 1) % 1000))
    if dataset == GPQA:
        right, wrong = _LETTERS[number % 4], _LETTERS[(number + 1) % 4]
        text = (
            f"SyntheticQuestion {number}: which letter is number {number % 4} of A, B, C, D, counted from 0?"
        )
        return SyntheticQuestion(dataset, text, right, f"Answer: {right}", f"Answer: {wrong}")
    factor = _factor(number)
    text = f"SyntheticQuestion {number}: read an integer and print it times {factor}."
    return SyntheticQuestion(dataset, text, _question_id(number), _program(factor), _program(factor + 1))


def code_tests(number: int) -> str:
    """Return the line of a question of LIVECODEBENCH in a file of tests: docs/accuracy.md has the format."""
    tests = [{"input": f"{value}\n", "output": f"{value * _factor(number)}\n"} for value in (1, 7, -3)]
    return json.dumps({"question_id": _question_id(number), "fn_name": None, "tests": tests})


def _boxed(value: int) -> str:
    return rf"The answer is \boxed{{{value}}}."


def _program(factor: int) -> str:
    return f"```python\nprint(int(input()) * {factor})\n```"


def _factor(number: int) -> int:
    return 2 + number % 89


def _question_id(number: int) -> str:
    return f"synthetic_{number}"
