"""LoadGen's result figures, their bounds and its latencies, from values of a detail log."""

import pytest

from sut.results.loadgen_figures import TOKEN_RATES, Bound, LoadGenFigures, LoadGenSpread
from sut.results.logs import DetailLog
from tests.sut.handmade_logs import INTERACTIVE, OFFLINE, SERVER, Scenario

PERCENTILES = ("50.00", "90.00", "95.00", "97.00", "99.00", "99.90")
SERVER_VALUES: dict[str, object] = {
    "result_validity": "INVALID",
    "result_completed_tokens_per_second": 9.5,
    "result_completed_samples_per_sec": 178.315,
    "effective_target_qps": 200,
    "requested_server_ttft_latency": 3_000_000_000,
    "requested_server_tpot_latency": 80_000_000,
    "result_first_token_mean_latency_ns": 32,
    "result_first_token_min_latency_ns": 1,
    "result_first_token_max_latency_ns": 128,
    **{f"result_first_token_{mark}_percentile_latency_ns": i for i, mark in enumerate(PERCENTILES, 20)},
    "result_time_to_output_token_mean": 3,
    "result_time_to_output_token_min": 2,
    "result_time_to_output_token_max": 9,
    **{f"result_time_per_output_token_{mark}_percentile_ns": i for i, mark in enumerate(PERCENTILES, 3)},
    "result_mean_latency_ns": 80,
    "result_min_latency_ns": 12,
    "result_max_latency_ns": 211,
    **{f"result_{mark}_percentile_latency_ns": i for i, mark in enumerate(PERCENTILES, 100)},
    "result_tokens_per_second": 10.5,
    "other": 1,
}


def test_offline_shows_tokens_per_second() -> None:
    """The headline of Offline has its own rates; keys missing in LoadGen's log are left out."""
    figures = LoadGenFigures.of(OFFLINE, DetailLog(SERVER_VALUES, []))
    assert {"result_validity": "INVALID", "result_tokens_per_second": 10.5} == figures.headline
    assert {} == figures.bounds


@pytest.mark.parametrize("scenario", [SERVER, INTERACTIVE])
def test_each_bound_stands_with_its_figure(scenario: Scenario) -> None:
    """Server: completed samples per second with the target rate, p99 of TTFT and TPOT with their limits."""
    figures = LoadGenFigures.of(scenario, DetailLog(SERVER_VALUES, []))
    assert {
        "result_completed_samples_per_sec": Bound("target_qps", 200),
        "result_first_token_99.00_percentile_latency_ns": Bound("limit", 3_000_000_000),
        "result_time_per_output_token_99.00_percentile_ns": Bound("limit", 80_000_000),
    } == figures.bounds
    assert ["result_validity", "result_completed_tokens_per_second", *figures.bounds] == [*figures.headline]


def test_offline_has_its_target_rate() -> None:
    """Offline: samples per second with the target rate, behind the tokens per second."""
    values: dict[str, object] = {
        "result_samples_per_second": 30,
        "effective_target_qps": 12,
        "result_tokens_per_second": 10.5,
        "result_validity": "VALID",
    }
    figures = LoadGenFigures.of(OFFLINE, DetailLog(values, []))
    assert {"result_samples_per_second": Bound("target_qps", 12)} == figures.bounds
    headline = ["result_validity", "result_tokens_per_second", "result_samples_per_second"]
    assert headline == list(figures.headline)


def test_without_a_completed_test_there_are_no_figures() -> None:
    """Every mapping is empty."""
    assert LoadGenFigures() == LoadGenFigures.of(SERVER, DetailLog({}, []))
    assert LoadGenFigures(headline={}, bounds={}, latencies={}) == LoadGenFigures()


def test_the_rates_of_tokens_have_these_keys() -> None:
    """Of Offline and of Server, in LoadGen's log."""
    assert ("result_tokens_per_second", "result_completed_tokens_per_second") == TOKEN_RATES


def test_loadgens_latencies_are_read_with_their_percentiles() -> None:
    """TTFT, TPOT and latency each have mean, minimum, maximum and six percentiles."""
    names = ("p50", "p90", "p95", "p97", "p99", "p99.9")
    assert {
        "ttft_ns": LoadGenSpread(32, 1, dict(zip(names, range(20, 26), strict=True)), 128),
        "tpot_ns": LoadGenSpread(3, 2, dict(zip(names, range(3, 9), strict=True)), 9),
        "latency_ns": LoadGenSpread(80, 12, dict(zip(names, range(100, 106), strict=True)), 211),
    } == LoadGenFigures.of(SERVER, DetailLog(SERVER_VALUES, [])).latencies


def test_an_incomplete_quantity_is_left_out() -> None:
    """Without one of its figures, or with one that is no number, the quantity is not shown."""
    for name in ("99.00_percentile", "mean", "min", "max"):
        for value in (None, True, "fast"):
            values = SERVER_VALUES | {f"result_{name}_latency_ns": value}
            latencies = LoadGenFigures.of(SERVER, DetailLog(values, [])).latencies
            assert {"ttft_ns", "tpot_ns"} == latencies.keys()
