"""Extract the answer from a decoded text as the official evaluator does, its oddities included.

Source: behavior of language/gpt-oss-120b/eval_accuracy.py of mlcommons/inference, August 2026.
"""

import re

FINAL_CHANNEL = "<|channel|>final"
MESSAGE = "<|message|>"
RETURN = "<|return|>"
FENCE = "```"

_LARGEST_AIME_ANSWER = 999
# No pattern has two adjacent \s*: a long run of spaces would take quadratic or cubic time.
_LETTER = "([A-D])"
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_LEADING_LETTER = re.compile(rf"[^A-Za-z]*{_LETTER}(?![A-Za-z])", re.IGNORECASE)
_LABELED_LETTER = re.compile(rf"\bANSWER\s*(?:[:.]\s*)?{_LETTER}\b", re.IGNORECASE)
_LATE_LETTER = re.compile(
    rf"\b(?:FINAL\s*)?ANSWER\b\s*(?:[:=]\s*)?(?:\(\s*)?{_LETTER}\s*\)?(?:\s*\Z|[^A-Za-z])", re.IGNORECASE
)
_BOXED_DIGITS = re.compile(r"\\boxed\{\s*(\d+)\s*\}")
_LABELED_DIGITS = re.compile(r"ANSWER:\s*(\d+)(?!\.)\b", re.IGNORECASE)
_LANGUAGE_LINE = re.compile(r"(?:python|py)\s*\n", re.IGNORECASE)


def final_section(text: str) -> str | None:
    """Return the first final message of a text, stripped, up to <|return|> or its end; None without one."""
    at = text.find(FINAL_CHANNEL)
    while at >= 0:
        # The header may hold other characters, but no "<", before <|message|>.
        header_end = text.find("<", at + len(FINAL_CHANNEL))
        if header_end >= 0 and text.startswith(MESSAGE, header_end):
            begin = header_end + len(MESSAGE)
            end = text.find(RETURN, begin)
            return text[begin : end if end >= 0 else len(text)].strip()
        at = text.find(FINAL_CHANNEL, at + 1)
    return None


def choice_letter(text: str) -> str | None:
    """Return the letter A to D of a multiple-choice answer, upper case."""
    section = final_section(text)
    final = _unescaped(_BOLD.sub(r"\1", text if section is None else section))
    found = _LEADING_LETTER.match(final) or _LABELED_LETTER.search(final)
    if found is None:
        found = _last(_LATE_LETTER, _unescaped(text))
    return None if found is None else found[1].upper()


def aime_integer(text: str) -> int | None:
    """Return the integer 0 to 999 of an AIME answer; the whole text is searched, drafts included."""
    found = _last(_BOXED_DIGITS, text) or _last(_LABELED_DIGITS, text)
    if found is None:
        return None
    try:
        value = int(found[1])
    except ValueError:
        # Python converts at most 4,300 digits.
        return None
    return value if value <= _LARGEST_AIME_ANSWER else None


def python_source(text: str) -> str | None:
    """Return the last code block: of the final message if it has one, else of the whole text."""
    section = final_section(text)
    source = None if section is None else _last_source(section)
    return _last_source(text) if source is None else source


def _last_source(text: str) -> str | None:
    source = last_block(text, f"{FENCE}python")
    if source is not None:
        return source.strip()
    source = last_block(text, FENCE)
    if source is None:
        return None
    source = source.strip()
    language = _LANGUAGE_LINE.match(source)
    return source if language is None else source[language.end() :]


def last_block(text: str, opening: str) -> str | None:
    """Return what the last closed code block with this opening contains."""
    found, begin = None, text.find(opening)
    while begin >= 0:
        begin += len(opening)
        end = text.find(FENCE, begin)
        if end < 0:
            break
        found = text[begin:end]
        begin = text.find(opening, end + len(FENCE))
    return found


def _unescaped(text: str) -> str:
    return text.replace(r"\n", "\n")


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text):
        found = match
    return found
