"""Explain why the official evaluator and the second opinion read different answers."""

import re

from sut.results.accuracy.data_sets import Extracted, Family
from sut.results.accuracy.extraction import aime_integer, final_section

_ARTICLE = re.compile(r"[^A-Za-z]*[Aa]\s+[A-Za-z]")


def explain(family: Family, text: str, message: str | None, official: Extracted) -> str:
    """Return the reason in one phrase.

    Args:
        family: Of the row's data set.
        text: The whole decoded answer.
        message: Its last final message.
        official: The official answer.
    """
    if message is None:
        return "no final message: the official evaluator reads the whole text"
    if final_section(text) != message:
        return (
            "several final messages, or one not ended by <|return|>: the official evaluator reads the first"
        )
    return _EXPLAIN[family](message, official)


def _explain_integer(message: str, official: Extracted) -> str:
    if official is not None and aime_integer(message) != official:
        return "a number outside the final message: the official evaluator searches the whole text"
    if r"\boxed{" in message:
        return r"\boxed{} holds more than digits, which the official evaluator does not read"
    return "the final message states the number in a form that the official evaluator does not read"


def _explain_letter(message: str, official: Extracted) -> str:
    if official == "A" and _ARTICLE.match(message):
        return 'the final message begins with the word "A", which the official evaluator takes for the letter'
    if official is None:
        return "the final message states the letter in a form that the official evaluator does not read"
    return "the official evaluator finds another letter in the final message, or outside it"


def _explain_source(_: str, official: Extracted) -> str:
    if official is None:
        return "the code block is not closed"
    return "the official evaluator takes another code block, or a part of the language's name with it"


_EXPLAIN = {Family.AIME: _explain_integer, Family.GPQA: _explain_letter, Family.CODE: _explain_source}
