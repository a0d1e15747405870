"""Where a run's settings differ from those of a submission."""

from sut.results.logs import DetailLog
from sut.settings import (
    ACCURACY_SAMPLE_COUNT,
    MIN_DURATION_MS,
    PERFORMANCE_SAMPLE_COUNT,
    Mode,
    Scenario,
)


def deviations(detail: DetailLog, scenario: Scenario, mode: Mode) -> list[str]:
    """List what a submission would not allow in the settings that LoadGen says it used.

    Source: tools/submission/submission_checker (v6.1): sample counts, 600 s, 6,396 samples, latency limits.
    """
    if detail.values.get("effective_accuracy_log_sampling_target"):
        # A compliance test: its audit.config decides.
        return []
    expected: dict[str, object] = {
        "effective_performance_sample_count": PERFORMANCE_SAMPLE_COUNT,
        "requested_use_token_latencies": True,
    }
    if mode is Mode.ACCURACY:
        expected["effective_accuracy_sample_count"] = ACCURACY_SAMPLE_COUNT
    found = [
        f"{key} is {detail.values.get(key)}, not {value}"
        for key, value in expected.items()
        if detail.values.get(key) != value
    ]
    if mode is Mode.PERFORMANCE:
        found += _below(detail, "effective_min_duration_ms", MIN_DURATION_MS)
        if scenario is Scenario.OFFLINE:
            found += _below(detail, "effective_samples_per_query", PERFORMANCE_SAMPLE_COUNT)
        else:
            found += _other_latencies(detail, scenario)
    return found


def _below(detail: DetailLog, key: str, bound: int) -> list[str]:
    value = detail.values.get(key)
    return [] if isinstance(value, int) and value >= bound else [f"{key} is {value}, below {bound}"]


def _other_latencies(detail: DetailLog, scenario: Scenario) -> list[str]:
    # mlperf.conf: Server 3000 and 80 ms, Interactive 2000 and 15 ms.
    limits_ns = (
        (2_000_000_000, 15_000_000) if scenario is Scenario.INTERACTIVE else (3_000_000_000, 80_000_000)
    )
    keys = ("requested_server_ttft_latency", "requested_server_tpot_latency")
    return [
        f"{key} is {detail.values.get(key)} ns, not {limit_ns}"
        for key, limit_ns in zip(keys, limits_ns, strict=True)
        if detail.values.get(key) != limit_ns
    ]
