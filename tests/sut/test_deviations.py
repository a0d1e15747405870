"""Where a run's settings differ from a submission's, as LoadGen says them in its detail log."""

import pytest

from sut.results.deviations import deviations
from sut.results.logs import DetailLog
from sut.settings import Mode, Scenario

OFFLINE, SERVER, INTERACTIVE = Scenario.OFFLINE, Scenario.SERVER, Scenario.INTERACTIVE
PERFORMANCE, ACCURACY = Mode.PERFORMANCE, Mode.ACCURACY
SUBMISSION: dict[str, object] = {
    "effective_performance_sample_count": 6396,
    "effective_accuracy_sample_count": 4395,
    "requested_use_token_latencies": True,
    "effective_min_duration_ms": 600_000,
    "effective_samples_per_query": 6396,
    "requested_server_ttft_latency": 3_000_000_000,
    "requested_server_tpot_latency": 80_000_000,
}
FAST: dict[str, object] = SUBMISSION | {
    "requested_server_ttft_latency": 2_000_000_000,
    "requested_server_tpot_latency": 15_000_000,
}


@pytest.mark.parametrize("mode", [PERFORMANCE, ACCURACY])
@pytest.mark.parametrize(
    "scenario, values", [(OFFLINE, SUBMISSION), (SERVER, SUBMISSION), (INTERACTIVE, FAST)]
)
def test_a_submissions_settings_have_no_deviations(
    scenario: Scenario, values: dict[str, object], mode: Mode
) -> None:
    """The official settings of each scenario, and longer runs over more samples, deviate in nothing."""
    assert deviations(DetailLog(values, []), scenario, mode) == []
    more = values | {"effective_min_duration_ms": 900_000, "effective_samples_per_query": 12_792}
    assert deviations(DetailLog(more, []), scenario, mode) == []


@pytest.mark.parametrize(
    "scenario, mode, key, value",
    [
        (OFFLINE, PERFORMANCE, "effective_performance_sample_count", 50),
        (SERVER, ACCURACY, "effective_performance_sample_count", 6395),
        (OFFLINE, ACCURACY, "effective_accuracy_sample_count", 50),
        (SERVER, PERFORMANCE, "requested_use_token_latencies", False),
        (OFFLINE, PERFORMANCE, "effective_min_duration_ms", 599_999),
        (INTERACTIVE, PERFORMANCE, "effective_min_duration_ms", 1000),
        (OFFLINE, PERFORMANCE, "effective_samples_per_query", 6395),
        (SERVER, PERFORMANCE, "requested_server_ttft_latency", 3_000_000_001),
        (SERVER, PERFORMANCE, "requested_server_tpot_latency", 15_000_000),
        (INTERACTIVE, PERFORMANCE, "requested_server_ttft_latency", 3_000_000_000),
        (INTERACTIVE, PERFORMANCE, "requested_server_tpot_latency", 80_000_000),
    ],
)
def test_a_deviation_is_named_with_its_value(scenario: Scenario, mode: Mode, key: str, value: object) -> None:
    """Each setting that a submission would not allow is one line with LoadGen's key and value, or None."""
    values = FAST if scenario is INTERACTIVE else SUBMISSION
    (found,) = deviations(DetailLog(values | {key: value}, []), scenario, mode)
    assert found.startswith(f"{key} is {value}")
    left = {k: v for k, v in values.items() if k != key}
    (found,) = deviations(DetailLog(left, []), scenario, mode)
    assert found.startswith(f"{key} is None")
