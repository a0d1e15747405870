"""Read LoadGen's log files after a run."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

_MARK = ":::MLLOG "
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
        ValueError: A line with LoadGen's prefix is not JSON.
    """
    values: dict[str, object] = {}
    errors = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith(_MARK):
                entry = json.loads(_NO_NUMBER.sub("null", line[len(_MARK) :]))
                values[entry["key"]] = entry["value"]
                if entry["metadata"]["is_error"]:
                    errors.append(f"{entry['key']}: {entry['value']}")
    return DetailLog(values, errors)


def read_accuracy(path: Path) -> AccuracyLog:
    """Read mlperf_log_accuracy.json line by line, because it can have hundreds of megabytes.

    Raises:
        ValueError: An entry is not JSON.
    """
    entries: Counter[int] = Counter()
    num_tokens = num_bytes = 0
    text = ""
    with path.open(encoding="utf-8") as file:
        for line in file:
            text = line.strip().rstrip(",")
            if text.startswith("{"):
                entry = json.loads(text)
                entries[entry["qsl_idx"]] += 1
                num_tokens += entry["token_count"]
                num_bytes += len(entry["data"]) // 2
    return AccuracyLog(entries, num_tokens, num_bytes, text == "]")
