"""Read LoadGen's log files after a run."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from common.json_document import parse_json

_MARK = ":::MLLOG "
# The longest official answer has 32,768 tokens of 8 characters: 256 KiB.
_MAX_LINE_CHARS = 16 << 20
# The rate of a single Server query is 0 / 0, which LoadGen prints as C++ does: nan or inf.
_NO_NUMBER = re.compile(r'(?<="value": )-?(nan|inf)(?=,)')


class DetailLog(NamedTuple):
    """Contents of mlperf_log_detail.txt."""

    values: dict[str, object]
    """Last value of each key; None for nan and inf."""
    errors: list[str]
    """Key and value of each line that LoadGen marks as an error, in log order."""

    @property
    def logs_every_answer(self) -> bool:
        """Whether LoadGen writes every answer of a performance run to the accuracy log.

        LoadGen logs an answer with probability target / expected; issuing more queries does not change it.

        Source: loadgen/loadgen.cc, IssueQueries.
        """
        target = self._number("effective_accuracy_log_sampling_target")
        scheduled_s = self._number("effective_min_duration_ms") / 1000
        expected = max(
            int(self._number("effective_target_qps") * scheduled_s),
            self._number("effective_min_sample_count"),
        )
        return 0 < target >= expected

    def _number(self, key: str) -> float:
        value = self.values.get(key)
        return value if isinstance(value, int | float) else 0


class AccuracyLog(NamedTuple):
    """Summary of mlperf_log_accuracy.json, without the tokens."""

    entries: Counter[int]
    """Number of entries of each sample index."""
    num_tokens: int
    """Sum of token_count."""
    num_bytes: int
    """Bytes of all answers."""
    is_whole: bool
    """Whether the list of entries is closed."""


def read_detail(path: Path) -> DetailLog:
    """Read mlperf_log_detail.txt.

    Raises:
        ValueError: A line with LoadGen's prefix is not JSON, or a line is too long.
    """
    values: dict[str, object] = {}
    errors = []
    with path.open(encoding="utf-8") as file:
        for line in _lines(file):
            if line.startswith(_MARK):
                entry: Any = parse_json(_NO_NUMBER.sub("null", line[len(_MARK) :]))
                values[entry["key"]] = entry["value"]
                if entry["metadata"]["is_error"]:
                    errors.append(f"{entry['key']}: {entry['value']}")
    return DetailLog(values, errors)


def read_accuracy(path: Path) -> AccuracyLog:
    """Read mlperf_log_accuracy.json line by line, because it can have hundreds of megabytes.

    Raises:
        ValueError: A line is no entry of LoadGen, or too long.
    """
    entries: Counter[int] = Counter()
    num_tokens = num_bytes = 0
    text = ""
    with path.open(encoding="utf-8") as file:
        for line in _lines(file):
            text = line.strip().rstrip(",")
            if text.startswith("{"):
                sample, token_count, data = _answer(parse_json(text))
                entries[sample] += 1
                num_tokens += token_count
                num_bytes += len(data) // 2
    return AccuracyLog(entries, num_tokens, num_bytes, text == "]")


def _lines(file: IO[str]) -> Iterator[str]:
    while line := file.readline(_MAX_LINE_CHARS + 1):
        if len(line) > _MAX_LINE_CHARS:
            raise ValueError(f"a line is longer than {_MAX_LINE_CHARS:,} characters")
        yield line


def _answer(entry: Any) -> tuple[int, int, str]:
    """Return sample index, number of tokens and data of an entry."""
    sample, token_count, data = entry["qsl_idx"], entry["token_count"], entry["data"]
    if type(sample) is not int or type(token_count) is not int or not isinstance(data, str):
        raise ValueError("qsl_idx and token_count of an entry are integers, its data is text")
    return sample, token_count, data
