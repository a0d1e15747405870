"""Faults of one run in LoadGen's settings and figures, by its detail log."""

from sut.results.loadgen_figures import TPOT_P99, TTFT_P99
from sut.results.logs import DetailLog
from sut.results.required_settings import required_settings, violations
from sut.results.submission.recorded_runs import Division, Fault, RecordedRun, RunKind
from sut.settings import Mode, Scenario

# Source: inference_rules.adoc, Network division; the official checker looks for it in sut_name.
NETWORK_SUT = "Network SUT"


def setting_faults(run: RecordedRun, detail: DetailLog, division: Division) -> list[Fault]:
    """Compare the settings with those of a submission, and the latencies with their limits."""
    test = run.kind.compliance_test
    mode = Mode.ACCURACY if run.kind is RunKind.ACCURACY else Mode.PERFORMANCE
    required = required_settings(run.scenario, mode, test, is_audited=test is not None)
    found = [
        Fault(run.name, f"in the detail log {text}", is_rule=True)
        for text in violations(required, detail.values)
    ]
    if division is Division.NETWORK and NETWORK_SUT not in str(detail.values.get("sut_name")):
        reason = f"sut_name is {detail.values.get('sut_name')}, without {NETWORK_SUT!r}"
        found.append(Fault(run.name, reason))
    return found + _latency_faults(run, detail)


def _latency_faults(run: RecordedRun, detail: DetailLog) -> list[Fault]:
    """Require the 99th percentiles below this scenario's limits.

    The official checker compares an Interactive result with Server's limits: its log names Server.
    """
    if run.kind is not RunKind.PERFORMANCE or run.scenario is Scenario.OFFLINE:
        return []
    limits = run.scenario.limits
    bounds = {
        TTFT_P99: limits.ttft_ns.value,
        TPOT_P99: limits.tpot_ns.value,
    }
    return [
        Fault(run.name, f"{key} is {value}, not below {bound} ns of {run.scenario}")
        for key, bound in bounds.items()
        if not isinstance(value := detail.values.get(key), int | float) or value >= bound
    ]
