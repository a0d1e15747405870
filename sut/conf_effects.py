"""Describe which lines of a user.conf or audit.config have an effect on a run, and which have none.

LoadGen silently skips lines for other models, scenarios and keys. Every line without effect is listed here,
except those for another scenario of the benchmark, which a user.conf for several scenarios must have.
"""

from collections.abc import Iterable
from typing import NamedTuple

from sut.loadgen_conf import (
    AUDIT_FLAG,
    COMMON_KEYS,
    COMPLIANCE_KEYS,
    SERVER_KEYS,
    USER_FLAG,
    ConfFile,
    ConfLine,
)
from sut.settings import Scenario


class UnusedLines(NamedTuple):
    """Lines of a conf without effect on a run, for one reason."""

    numbers: tuple[int, ...]
    reason: str

    def __str__(self) -> str:
        """Name the lines and the reason."""
        first = ", ".join(map(str, self.numbers[:3]))
        more = len(self.numbers) - 3
        lines = f"lines {first}" if len(self.numbers) > 1 else f"line {first}"
        return f"{lines}{f' and {more} more' if more > 0 else ''}: {self.reason}"


def unused_lines(conf: ConfFile, scenario: Scenario, target_qps: float | None) -> list[UnusedLines]:
    """List the lines without effect, except those for another scenario of the benchmark.

    Args:
        conf: The file.
        scenario: The run's scenario.
        target_qps: Value of --target-qps, or None.
    """
    applied = conf.applied(scenario)
    by_reason: dict[str, list[int]] = {}
    for line in conf.lines:
        reason = _no_effect(conf, line, scenario)
        winner = applied.get(line.key)
        if reason is None and winner is not None and winner != line and _matches(conf, line, scenario):
            reason = f"{line.name} has no effect, because line {winner.number}, {winner}, takes precedence"
        if reason is None and winner == line and line.key == "target_qps" and target_qps is not None:
            reason = f"{line} has no effect, because --target-qps {target_qps:g} takes precedence"
        if reason:
            by_reason.setdefault(reason, []).append(line.number)
    return [UnusedLines(tuple(numbers), reason) for reason, numbers in by_reason.items()]


def _no_effect(conf: ConfFile, line: ConfLine, scenario: Scenario) -> str | None:
    """Return why a line has no effect, whatever the other lines are; None if it may have one."""
    ours = {entry.model_name for entry in Scenario}
    user, audit = conf.flag == USER_FLAG, conf.flag == AUDIT_FLAG
    interactive = line.model == Scenario.INTERACTIVE.model_name
    unused_key = _matches(conf, line, scenario) and line.key not in _keys_of(scenario)
    model = f"model {line.model!r}"
    reasons = (
        (audit and line.model != "*", model, "LoadGen reads an audit.config for model '*' only"),
        (line.model not in {"*", *ours}, model, f"the models of this benchmark are {_listed(ours)}"),
        (
            interactive and line.scenario not in ("*", "Server"),
            line.name,
            "Interactive has scenario Server in LoadGen",
        ),
        (user and line.key == "mode", line.name, "--accuracy sets LoadGen's mode"),
        (user and line.key in COMPLIANCE_KEYS, line.name, "only an audit.config has this key"),
        (unused_key, line.name, f"LoadGen does not use {line.key} in {scenario}"),
    )
    found = (f"{what} has no effect, because {reason}" for applies, what, reason in reasons if applies)
    return next(found, None)


def _keys_of(scenario: Scenario) -> frozenset[str]:
    keys = COMMON_KEYS | COMPLIANCE_KEYS
    return keys if scenario is Scenario.OFFLINE else keys | SERVER_KEYS


def _matches(conf: ConfFile, line: ConfLine, scenario: Scenario) -> bool:
    return line.model in conf.models(scenario) and line.scenario in ("*", scenario.loadgen_name)


def _listed(names: Iterable[str]) -> str:
    return " and ".join(repr(name) for name in sorted(names))


def used_lines(conf: ConfFile, scenario: Scenario) -> str:
    """Describe the settings that a run takes from a conf."""
    keys = _keys_of(scenario)
    used = [line for line in conf.applied(scenario).values() if line.key in keys]
    used = [line for line in used if _no_effect(conf, line, scenario) is None]
    found = ", ".join(f"{line.key} = {line.value}" for line in sorted(used, key=lambda line: line.number))
    return f"sets {found}" if found else f"sets nothing in {scenario}"


def shared_rate(conf: ConfFile, scenario: Scenario, target_qps: float | None) -> str | None:
    """Return a warning if Interactive takes its rate from a line that also sets Server's; None if not."""
    line = conf.applied(scenario).get("target_qps")
    if scenario is not Scenario.INTERACTIVE or target_qps is not None or line is None:
        return None
    if line.model == scenario.model_name:
        return None
    own = f"{scenario.model_name}.{scenario.loadgen_name}.target_qps"
    return f"line {line.number}: {line} also sets the rate of Interactive; {own} sets it for Interactive only"
