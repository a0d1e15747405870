"""Faults of one run in LoadGen's settings and figures, by its detail log."""

from typing import NamedTuple

from sut.benchmark import BENCHMARK
from sut.results.logs import DetailLog
from sut.results.submission.recorded_runs import Division, Fault, RecordedRun, RunKind
from sut.settings import Scenario

# Source: inference_rules.adoc, Network division; the official checker looks for it in sut_name.
NETWORK_SUT = "Network SUT"


class _Setting(NamedTuple):
    """A setting that a submission requires."""

    key: str
    required: object
    is_minimum: bool = False


def setting_faults(run: RecordedRun, detail: DetailLog, division: Division) -> list[Fault]:
    """Compare the settings with those of a submission, and the latencies with their limits."""
    found = [
        Fault(run.name, f"the detail log has {setting.key} {value}, not {_told(setting)}", is_rule=True)
        for setting in _required(run)
        if not _is_met(setting, value := detail.values.get(setting.key))
    ]
    if division is Division.NETWORK and NETWORK_SUT not in str(detail.values.get("sut_name")):
        reason = f"sut_name is {detail.values.get('sut_name')}, without {NETWORK_SUT!r}"
        found.append(Fault(run.name, reason))
    return found + _latency_faults(run, detail)


def _told(setting: _Setting) -> str:
    return f"{setting.required} or more" if setting.is_minimum else str(setting.required)


def _is_met(setting: _Setting, value: object) -> bool:
    if setting.is_minimum and isinstance(value, int | float) and isinstance(setting.required, int):
        return value >= setting.required
    return value == setting.required


def _required(run: RecordedRun) -> list[_Setting]:
    """List what the official checker, the rules and the compliance tests require."""
    test = run.kind.compliance_test
    count = BENCHMARK.performance_sample_count if test is None else test.num_samples
    required = [
        _Setting("requested_use_token_latencies", True),
        _Setting("effective_performance_sample_count", count),
    ]
    if run.kind is RunKind.ACCURACY:
        return [*required, _Setting("effective_accuracy_sample_count", BENCHMARK.accuracy_sample_count)]
    if run.kind is RunKind.PERFORMANCE:
        required.append(_Setting("effective_min_duration_ms", BENCHMARK.min_duration_ms, is_minimum=True))
        required.append(_Setting("effective_sample_concatenate_permutation", True))
    if run.scenario is Scenario.OFFLINE:
        return [*required, _Setting("effective_samples_per_query", count, is_minimum=True)]
    limits = run.scenario.limits
    return [
        *required,
        _Setting("effective_target_latency_percentile", BENCHMARK.latency_percentile),
        _Setting("requested_server_ttft_latency", limits.ttft_ns.value),
        _Setting("requested_server_tpot_latency", limits.tpot_ns.value),
    ]


def _latency_faults(run: RecordedRun, detail: DetailLog) -> list[Fault]:
    """Require the 99th percentiles below this scenario's limits.

    The official checker compares an Interactive result with Server's limits: its log names Server.
    """
    if run.kind is not RunKind.PERFORMANCE or run.scenario is Scenario.OFFLINE:
        return []
    limits = run.scenario.limits
    bounds = {
        "result_first_token_99.00_percentile_latency_ns": limits.ttft_ns.value,
        "result_time_per_output_token_99.00_percentile_ns": limits.tpot_ns.value,
    }
    return [
        Fault(run.name, f"{key} is {value}, not below {bound} ns of {run.scenario}")
        for key, bound in bounds.items()
        if not isinstance(value := detail.values.get(key), int | float) or value >= bound
    ]
