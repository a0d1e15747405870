"""A run's settings and 99th percentiles against those of a submission, by its detail log."""

from pathlib import Path

import pytest

from sut.results.logs import DetailLog
from sut.results.submission.recorded_runs import Division, Fault, RecordedRun, RunKind
from sut.results.submission.setting_faults import setting_faults
from sut.settings import Scenario
from tests.sut.handmade_logs import AUDITED, INTERACTIVE, OFFLINE, SERVER
from tests.sut.test_deviations import FAST, SUBMISSION

TTFT = "result_first_token_99.00_percentile_latency_ns"
TPOT = "result_time_per_output_token_99.00_percentile_ns"
# The largest p99 of each limit that passes: LoadGen's log is in whole ns.
BELOW: dict[Scenario, dict[str, object]] = {
    SERVER: {TTFT: 2_999_999_999, TPOT: 79_999_999},
    INTERACTIVE: {TTFT: 1_999_999_999, TPOT: 14_999_999},
}


def faults_of(
    scenario: Scenario,
    kind: RunKind = RunKind.PERFORMANCE,
    division: Division = Division.CLOSED,
    **values: object,
) -> list[Fault]:
    """List the faults of a run with the settings of a submission, with changes."""
    official = FAST if scenario is INTERACTIVE else SUBMISSION
    run = RecordedRun(Path("run"), scenario, kind, {})
    return setting_faults(run, DetailLog({**official, **values}, []), division)


@pytest.mark.parametrize("scenario", [SERVER, INTERACTIVE])
def test_both_percentiles_must_be_below_their_limits(scenario: Scenario) -> None:
    """One ns below passes; at the limit, or without the figure, each is a fault of its own."""
    assert [] == faults_of(scenario, **BELOW[scenario])
    limits = {TTFT: 3 * 10**9, TPOT: 8 * 10**7} if scenario is SERVER else {TTFT: 2 * 10**9, TPOT: 15 * 10**6}
    for key, limit in limits.items():
        for value in (limit, None):
            reason = f"{key} is {value}, not below {limit} ns of {scenario}"
            expected = [Fault(f"{scenario}/performance", reason)]
            assert expected == faults_of(scenario, **(BELOW[scenario] | {key: value}))


def test_only_a_performance_run_with_limits_is_held_to_them() -> None:
    """Offline has no limits; accuracy runs and compliance tests have no percentiles that count."""
    assert [] == faults_of(OFFLINE)
    assert [] == faults_of(SERVER, RunKind.ACCURACY)
    assert [] == faults_of(SERVER, RunKind.TEST09, **AUDITED)


def test_a_setting_of_no_submission_is_a_rule() -> None:
    """A rehearsal need not meet it; the setting is that of the run's kind."""
    reason = "in the detail log effective_accuracy_sample_count is 50, not 4395"
    expected = [Fault("offline/accuracy", reason, is_rule=True)]
    assert expected == faults_of(OFFLINE, RunKind.ACCURACY, effective_accuracy_sample_count=50)
    assert [] == faults_of(OFFLINE, RunKind.PERFORMANCE, effective_accuracy_sample_count=50)


def test_the_network_divisions_log_names_a_sut_behind_a_network() -> None:
    """Only that division asks for the name."""
    named = {"sut_name": "tokenfleet Network SUT 1"}
    assert [] == faults_of(OFFLINE, division=Division.NETWORK, **named)
    assert [] == faults_of(OFFLINE, division=Division.OPEN)
    expected = [Fault("offline/performance", "sut_name is PyFastSUT, without 'Network SUT'")]
    assert expected == faults_of(OFFLINE, division=Division.NETWORK, sut_name="PyFastSUT")
