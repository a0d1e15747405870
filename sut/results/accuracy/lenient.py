"""The second opinion: what a reader takes for the answer, only from the last final message.

It never counts for the score. It shows which rows the official evaluator may have misread.
"""

import re
from typing import Final

from sut.results.accuracy.data_sets import Extracted, Family
from sut.results.accuracy.extraction import FENCE, FINAL_CHANNEL, MESSAGE

_BOXED = r"\boxed{"
_MESSAGE_END = re.compile(r"<\|(?:return|end|call|start|channel)\|>")
# LaTeX and markdown around an answer.
_WRAPPER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathsf|boxed|left|right)\b|\\[ ,;!()\[\]]|[{}$*`,\s]")
_DIGITS = re.compile(r"[0-9]{1,20}")
_STATED_DIGITS = re.compile(
    r"\banswer\b(?:\s+is\b)?\s*(?:[:=]\s*)?[*$\\(\[\s]{0,8}(?P<found>[0-9]{1,20})\b", re.IGNORECASE
)
# Upper case only: "the answer is a number" states no letter.
_STATED_LETTER = re.compile(
    r"\b(?i:answer|option|choice)\b(?:\s+(?i:is)\b)?\s*(?:[:=]\s*)?(?:(?i:option|choice)\s+)?"
    r"[*$\\(\[\s]{0,8}(?P<found>[A-D])\b(?![-'])"
)
# A letter directly before a word is no answer: it may be the article "A".
_LONE_LETTER = re.compile(r"[\s(*\[$\\]{0,8}(?P<found>[A-D])[\s*\]$\\]{0,8}(?:[).:,;]|\Z|\n)")
_CODE_FENCE = re.compile(r"```[ \t]*(?P<language>[A-Za-z0-9+#]*)[^\n]*(?:\n|\Z)")
_PYTHON: Final = {"", "python", "python3", "py", "py3"}
_LARGEST_AIME_ANSWER = 999


def last_final_message(text: str) -> str | None:
    """Return the last final message of a decoded answer; None without one."""
    at = text.rfind(FINAL_CHANNEL)
    while at >= 0:
        begin = text.find("<", at + len(FINAL_CHANNEL))
        if begin >= 0 and text.startswith(MESSAGE, begin):
            begin += len(MESSAGE)
            end = _MESSAGE_END.search(text, begin)
            return text[begin : end.start() if end else len(text)].strip()
        at = text.rfind(FINAL_CHANNEL, 0, at)
    return None


def read_leniently(family: Family, message: str | None) -> Extracted:
    """Extract the answer from a final message; nothing without one."""
    if message is None:
        return None
    if family is Family.AIME:
        return _integer(message)
    return _letter(message) if family is Family.GPQA else _source(message)


def _integer(message: str) -> int | None:
    boxed = _last_boxed(message)
    stated = _last_group(_STATED_DIGITS, message)
    candidates = [boxed, stated] if boxed is not None else [stated, _last_group(_DIGITS, message)]
    for candidate in candidates:
        if candidate is not None and _DIGITS.fullmatch(bare := _WRAPPER.sub("", candidate)):
            value = int(bare)
            return value if value <= _LARGEST_AIME_ANSWER else None
    return None


def _letter(message: str) -> str | None:
    boxed = _last_boxed(message)
    if boxed is not None and (bare := _WRAPPER.sub("", boxed).strip("().")) in set("ABCD"):
        return bare
    stated = _last_group(_STATED_LETTER, message)
    if stated is not None:
        return stated
    lone = _LONE_LETTER.match(message)
    return None if lone is None else lone["found"]


def _source(message: str) -> str | None:
    """Return the last block that is Python or names no language; a last one may lack its end."""
    found, at = None, 0
    while opening := _CODE_FENCE.search(message, at):
        end = message.find(FENCE, opening.end())
        end = len(message) if end < 0 else end
        if opening["language"].lower() in _PYTHON:
            found = message[opening.end() : end].strip()
        at = end + len(FENCE)
    return found


def _last_boxed(message: str) -> str | None:
    """Return the content of the last LaTeX box, with balanced braces."""
    begin = message.rfind(_BOXED)
    if begin < 0:
        return None
    begin += len(_BOXED)
    depth = 1
    for at in range(begin, len(message)):
        depth += {"{": 1, "}": -1}.get(message[at], 0)
        if depth == 0:
            return message[begin:at]
    return None


def _last_group(pattern: re.Pattern[str], text: str) -> str | None:
    found = None
    for match in pattern.finditer(text):
        found = match.groupdict().get("found", match[0])
    return found
