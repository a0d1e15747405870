"""Parse the files that LoadGen reads: user.conf, and the audit.config of a compliance test.

LoadGen skips lines that it does not understand, without a message; here they are refused. LoadGen reads the
text that is written from the parsed lines, never the user's file.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from common.bounded_file import read_bounded
from common.flags import FlagError
from sut.benchmark import BENCHMARK, ComplianceTest
from sut.settings import Scenario

MAX_CONF_BYTES = 1 << 20
"""Longest file; the official ones have 2 KB."""

# Keys that LoadGen reads for every scenario (loadgen/test_settings_internal.cc).
COMMON_KEYS = frozenset(
    [
        "accuracy_log_probability",
        "accuracy_log_rng_seed",
        "accuracy_log_sampling_target",
        "accuracy_sample_count_override",
        "infer_token_latencies",
        "max_duration",
        "max_query_count",
        "min_duration",
        "min_query_count",
        "mode",
        "performance_issue_same",
        "performance_issue_same_index",
        "performance_issue_unique",
        "performance_sample_count_override",
        "print_timestamps",
        "sample_concatenate_permutation",
        "target_qps",
        "test05",
        "token_latency_scaling_factor",
        "use_token_latencies",
    ]
)
# Keys without effect in Offline. LoadGen reads samples_per_query for MultiStream only.
SERVER_KEYS = frozenset(
    [
        "coalesce_queries",
        "max_async_queries",
        "target_latency",
        "target_latency_percentile",
        "tpot_latency",
        "ttft_latency",
    ]
)
_MULTI_STREAM_KEYS = frozenset(["samples_per_query"])
COMPLIANCE_KEYS = frozenset(key for test in BENCHMARK.compliance_tests for key in test.keys)
_KEYS = COMMON_KEYS | SERVER_KEYS | _MULTI_STREAM_KEYS | COMPLIANCE_KEYS
_DECIMAL_KEYS = COMPLIANCE_KEYS | {
    "accuracy_log_probability",
    "target_latency_percentile",
    "target_qps",
    "token_latency_scaling_factor",
}
# Stricter than LoadGen, which reads 6e5 as 6, 0600000 as octal and larger numbers as 2**64 - 1.
_WHOLE = re.compile(r"0|[1-9][0-9]*")
_DECIMAL = re.compile(r"(0|[1-9][0-9]*)([.][0-9]+)?")
_VALUE_BOUND = 2**64
_CONF_LINE = re.compile(r"(?P<model>[^\s.]+)\.(?P<scenario>[^\s.]+)\.(?P<key>[^\s.]+)\s+=\s+(?P<value>\S+)")
_CONF_SCENARIOS = ("*", "Server", "Offline", "SingleStream", "MultiStream")
_PERFORMANCE_MODE = "2"


class ConfLine(NamedTuple):
    """One setting in a conf."""

    number: int
    """Line in the file, from 1."""
    model: str
    scenario: str
    key: str
    value: str

    @property
    def name(self) -> str:
        """The line's left side."""
        return f"{self.model}.{self.scenario}.{self.key}"

    def __str__(self) -> str:
        """Format the line as LoadGen reads it."""
        return f"{self.name} = {self.value}"


@dataclass(frozen=True, slots=True)
class ConfFile:
    """The settings of a user.conf or audit.config, every line checked."""

    flag: str
    """Flag that names the file."""
    lines: tuple[ConfLine, ...] = ()
    text: str = ""
    """What LoadGen reads: the settings and whole-line comments, without comments behind a value."""

    @property
    def values(self) -> dict[str, str]:
        """Value of each key, whatever its model and scenario; of several lines the last one."""
        return {line.key: line.value for line in self.lines}

    def applied(self, scenario: Scenario) -> dict[str, ConfLine]:
        """Return the line that LoadGen uses for each key in a scenario.

        Source: loadgen/test_settings_internal.cc, lookupkv: an exact scenario takes precedence over an exact
        model, and of two lines with the same name the last one counts. LoadGen reads an audit.config for
        model "*".
        """
        found: dict[str, ConfLine] = {}
        for name in ("*", scenario.loadgen_name):
            for model in self.models(scenario):
                found |= {
                    line.key: line for line in self.lines if (line.model, line.scenario) == (model, name)
                }
        return found

    def models(self, scenario: Scenario) -> tuple[str, ...]:
        """Return the models whose lines LoadGen reads in a scenario, the least specific first."""
        return ("*",) if self.flag == AUDIT_FLAG else ("*", scenario.model_name)


USER_FLAG, AUDIT_FLAG = "--user-conf", "--audit-config"
NO_USER_CONF = ConfFile(USER_FLAG)


def read_conf(flag: str, path: Path) -> ConfFile:
    """Read a user.conf or audit.config and check every line.

    Args:
        flag: USER_FLAG or AUDIT_FLAG.
        path: The file.

    Raises:
        FlagError: Names the file, the line and the mistake.
    """
    try:
        # A byte order mark would be part of the first line's model.
        text = read_bounded(path, MAX_CONF_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise FlagError(flag, f"cannot be read: {error.strerror or error}", path) from error
    except UnicodeDecodeError as error:
        raise FlagError(flag, f"is not UTF-8 text: {error}", path) from error
    return parse_conf(flag, text, path)


def official_audit_config(test: ComplianceTest) -> ConfFile:
    """Return the official audit.config of a compliance test."""
    return parse_conf(AUDIT_FLAG, test.audit_config)


def parse_conf(flag: str, text: str, path: Path | None = None) -> ConfFile:
    """Parse the text of a user.conf or audit.config.

    Raises:
        FlagError: Names the file, the line and the mistake.
    """
    lines, clean = [], []
    # splitlines would count a form feed as the end of a line, unlike editors and LoadGen.
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        setting, _, comment = line.partition("#")
        if not setting.strip():
            clean += [f"# {comment.strip()}"] if "#" in line else []
            continue
        try:
            lines.append(_parse_line(flag, number, setting.strip()))
        except ValueError as error:
            raise FlagError(flag, f"line {number}: {line.strip()!r}{error}", path) from error
        clean.append(str(lines[-1]))
    return ConfFile(flag, tuple(lines), "".join(f"{line}\n" for line in clean))


def _parse_line(flag: str, number: int, setting: str) -> ConfLine:
    """Parse a setting.

    Raises:
        ValueError: Its text follows the line in the message.
    """
    match = _CONF_LINE.fullmatch(setting)
    if match is None:
        raise ValueError(" is not 'model.Scenario.key = number' with spaces around '='")
    line = ConfLine(number, match["model"], match["scenario"], match["key"], match["value"])
    if line.scenario not in _CONF_SCENARIOS:
        raise ValueError(_unknown_scenario(line))
    if line.key not in _KEYS:
        raise ValueError(f": LoadGen has no key {line.key!r}")
    number_form = _DECIMAL if line.key in _DECIMAL_KEYS else _WHOLE
    if not number_form.fullmatch(line.value):
        raise ValueError(f": {line.value!r} is not a number of 0 or more, written in plain digits")
    # The first 21 digits decide; Python refuses to read thousands of them.
    if int(line.value.partition(".")[0][:21]) >= _VALUE_BOUND:
        raise ValueError(f": the value is above {_VALUE_BOUND - 1}")
    if line.key == "target_qps" and not float(line.value):
        raise ValueError(": target_qps is not above 0")
    if flag == AUDIT_FLAG and line.key == "mode" and line.value != _PERFORMANCE_MODE:
        raise ValueError(f": a compliance test is a performance run, mode {_PERFORMANCE_MODE}")
    return line


def _unknown_scenario(line: ConfLine) -> str:
    reason = f": scenario {line.scenario!r} is not one of {', '.join(_CONF_SCENARIOS)}"
    if line.scenario.lower() != Scenario.INTERACTIVE:
        return reason
    fast = Scenario.INTERACTIVE
    name = f"{fast.model_name}.{fast.loadgen_name}.{line.key}"
    return f"{reason}; LoadGen runs Interactive as Server with another model name: write {name}"
