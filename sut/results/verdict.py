"""Is the run what it claims to be: LoadGen's result, and what LoadGen does not check itself."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sut.results.logs import AccuracyLog, DetailLog, read_accuracy, read_detail
from sut.settings import (
    ACCURACY_SAMPLE_COUNT,
    MIN_DURATION_MS,
    PERFORMANCE_SAMPLE_COUNT,
    Mode,
    Scenario,
)


class Outcome(StrEnum):
    """How a run ended."""

    VALID = "VALID"
    INVALID = "INVALID"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict."""

    name: str
    passed: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """All of them."""

    outcome: Outcome
    reason: str
    """Empty when VALID."""
    checks: tuple[Check, ...] = ()
    deviations: tuple[str, ...] = ()
    """Where the run's settings differ from those of a submission; they do not make it INVALID."""

    @classmethod
    def of(cls, checks: list[Check], deviations: list[str]) -> "Verdict":
        """Judge a complete run by its checks."""
        failed = [f"{check.name}: {check.seen}" for check in checks if not check.passed]
        outcome = Outcome.INVALID if failed else Outcome.VALID
        return cls(outcome, "; ".join(failed), tuple(checks), tuple(deviations))


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What the coordinator counted by itself."""

    num_issued: int
    """Requests that LoadGen issued."""
    num_done: int
    """Requests reported complete."""
    num_distinct: int
    """Distinct samples among them."""
    num_short: int
    """Answers of 0 or 1 tokens."""
    received_tokens: int
    """Tokens stored from frames."""
    reported_tokens: int
    """Sum of n_tokens given to LoadGen."""
    produced_tokens: int
    """Sum of what the engines say they produced."""


def judge(
    log_dir: Path, scenario: Scenario, mode: Mode, num_samples: int, counts: Counts
) -> tuple[Verdict, DetailLog]:
    """Check a run that LoadGen has ended.

    Args:
        log_dir: LoadGen's output directory.
        scenario: The run's scenario.
        mode: Performance or accuracy.
        num_samples: Rows of the data set.
        counts: The coordinator's own.

    Returns:
        The verdict and LoadGen's detail log.
    """
    detail = read_detail(log_dir / "mlperf_log_detail.txt")
    accuracy = read_accuracy(log_dir / "mlperf_log_accuracy.json")
    checks = [
        _loadgen_errors(detail),
        _completion(counts),
        _token_counts(counts),
        _logged_tokens(accuracy, counts.reported_tokens if mode is Mode.ACCURACY else None),
    ]
    if mode is Mode.PERFORMANCE:
        checks.insert(0, _loadgen_result(detail))
        checks.append(_coverage(detail, num_samples, counts))
    else:
        checks.append(_accuracy_coverage(accuracy, min(num_samples, ACCURACY_SAMPLE_COUNT)))
    checks.append(Check("short_answers", True, f"{counts.num_short} answers of 0 or 1 tokens"))
    return Verdict.of(checks, deviations(detail, scenario, mode)), detail


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


def _loadgen_result(detail: DetailLog) -> Check:
    result = detail.values.get("result_validity")
    reason = detail.values.get("result_invalid_reason")
    return Check("loadgen_result", result == "VALID", f"{result}" + (f" ({reason})" if reason else ""))


def _loadgen_errors(detail: DetailLog) -> Check:
    first = f", first {detail.errors[0]}" if detail.errors else ""
    return Check("loadgen_errors", not detail.errors, f"{len(detail.errors)} errors in the detail log{first}")


def _completion(counts: Counts) -> Check:
    same = counts.num_issued == counts.num_done
    return Check("completion", same, f"{counts.num_issued} issued, {counts.num_done} complete")


def _coverage(detail: DetailLog, num_samples: int, counts: Counts) -> Check:
    loaded = detail.values.get("effective_performance_sample_count")
    expected = min(num_samples, loaded) if isinstance(loaded, int) else num_samples
    return Check("coverage", counts.num_distinct == expected, f"{counts.num_distinct} of {expected} samples")


def _accuracy_coverage(accuracy: AccuracyLog, expected: int) -> Check:
    once = [sample for sample in range(expected) if accuracy.entries[sample] == 1]
    extra = accuracy.entries.total() - len(once)
    seen = f"{len(once)} of {expected} samples exactly once, {extra} other entries"
    return Check("coverage", len(once) == expected and extra == 0, seen)


def _token_counts(counts: Counts) -> Check:
    same = counts.received_tokens == counts.reported_tokens == counts.produced_tokens
    seen = (
        f"engines produced {counts.produced_tokens}, received {counts.received_tokens}, "
        f"reported {counts.reported_tokens}"
    )
    return Check("tokens", same, seen)


def _logged_tokens(accuracy: AccuracyLog, expected: int | None) -> Check:
    """Compare the log's tokens with its bytes and, in accuracy mode, which logs all, with those reported."""
    same = accuracy.num_bytes == 4 * accuracy.num_tokens and expected in (None, accuracy.num_tokens)
    seen = f"{accuracy.entries.total()} entries, {accuracy.num_tokens} tokens, {accuracy.num_bytes} bytes"
    return Check("accuracy_log", same, seen)


def exit_code(outcome: Outcome) -> int:
    """Give the process exit code of a run that was not interrupted."""
    return {Outcome.VALID: 0, Outcome.FAILED: 1, Outcome.INVALID: 3}[outcome]


def headline(scenario: Scenario, detail: DetailLog) -> dict[str, object]:
    """Pick LoadGen's own result figures; the keys are those of the detail log."""
    keys = ["result_validity", "result_tokens_per_second", "result_samples_per_second"]
    if scenario is not Scenario.OFFLINE:
        keys = [
            "result_validity",
            "result_completed_tokens_per_second",
            "result_completed_samples_per_sec",
            "result_first_token_99.00_percentile_latency_ns",
            "result_time_per_output_token_99.00_percentile_ns",
        ]
    return {key: detail.values[key] for key in keys if key in detail.values}
