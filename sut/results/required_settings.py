"""The settings of LoadGen that a submission requires, by key of its detail log.

Source: tools/submission/submission_checker (v6.1), and inference_rules.adoc.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from common.json_document import is_number
from sut.benchmark import BENCHMARK, ComplianceTest
from sut.settings import Mode, Scenario

LoggedSettings = Mapping[str, object]
"""LoadGen's settings, by key of its detail log."""


class Requirement(NamedTuple):
    """Value that a submission requires of a setting."""

    key: str
    value: object
    is_minimum: bool = False
    """Larger values also pass."""
    unit: str = ""

    def violation(self, settings: LoggedSettings) -> list[str]:
        """Return the violation as a list of one line; empty if the setting passes."""
        value = settings.get(self.key)
        if self.is_minimum and is_number(value) and is_number(self.value):
            passed = value >= self.value
        else:
            passed = value == self.value
        relation = "below" if self.is_minimum else "not"
        return [] if passed else [f"{self.key} is {value}{self.unit}, {relation} {self.value}"]


def violations(requirements: Iterable[Requirement], settings: LoggedSettings) -> list[str]:
    """List the violations, one line each."""
    return [line for requirement in requirements for line in requirement.violation(settings)]


def sample_count(test: ComplianceTest | None) -> int:
    """Return LoadGen's performance sample count in a submission; accuracy runs set it without using it."""
    return BENCHMARK.performance_sample_count if test is None else test.num_samples


def required_settings(
    scenario: Scenario, mode: Mode, test: ComplianceTest | None, *, is_audited: bool
) -> list[Requirement]:
    """List the settings that a submission fixes.

    Args:
        scenario: The run's.
        mode: A compliance test is a performance run.
        test: The compliance test; None in any other run.
        is_audited: Whether the run has an audit.config, which sets duration and order of the samples.
    """
    count = sample_count(test)
    required = [
        Requirement("effective_performance_sample_count", count),
        Requirement("requested_use_token_latencies", True),
    ]
    if mode is Mode.ACCURACY:
        return [*required, Requirement("effective_accuracy_sample_count", BENCHMARK.accuracy_sample_count)]
    if not is_audited:
        required += [
            Requirement("effective_sample_concatenate_permutation", True),
            Requirement("effective_min_duration_ms", BENCHMARK.min_duration_ms, is_minimum=True),
            Requirement("effective_performance_issue_unique", False),
        ]
    if scenario is Scenario.OFFLINE:
        return [*required, Requirement("effective_samples_per_query", count, is_minimum=True)]
    limits = scenario.limits
    return [
        *required,
        Requirement("effective_target_latency_percentile", BENCHMARK.latency_percentile),
        Requirement("requested_server_coalesce_queries", False),
        Requirement("requested_server_ttft_latency", limits.ttft_ns.value, unit=" ns"),
        Requirement("requested_server_tpot_latency", limits.tpot_ns.value, unit=" ns"),
    ]
