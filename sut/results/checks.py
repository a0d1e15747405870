"""The checks of a verdict: each compares two sources and reports in one line what it found."""

from dataclasses import dataclass

from sut.results.logs import AccuracyLog, DetailLog
from sut.settings import Scenario

PAUSE_BOUND_NS = 100_000_000
"""A pause of the coordinator above this is a warning: it adds to the latency of requests."""
STEP_BOUND_NS = 5_000_000
"""A larger step of the system clock makes a run INVALID."""
DRIFT_BOUND_PPM = 500
"""The fastest slew of Linux's clock discipline (adjtimex, MAXFREQ)."""
# LoadGen prints six digits, so the relative error of a figure is at most half a unit of the sixth digit,
# 5e-6 for 1.00000. A quotient of two is off by at most (1 + 5e-6) / (1 - 5e-6) - 1 = 1.000005e-5.
_QUOTIENT_ERROR = 1.00001e-5
# LoadGen's conditions for VALID (loadgen/results.cc).
_CONSTRAINTS = (
    "result_perf_constraints_met",
    "result_min_duration_met",
    "result_min_queries_met",
    "early_stopping_met",
)


@dataclass(frozen=True, slots=True)
class VerdictCheck:
    """One line of the verdict."""

    name: str
    passed: bool
    seen: str
    warning: bool = False
    """Passed, but the user should look at it."""

    @property
    def mark(self) -> str:
        """Result in four characters: ok, warn or FAIL."""
        if not self.passed:
            return "FAIL"
        return "warn" if self.warning else "ok  "


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts of the coordinator, independent of LoadGen's."""

    num_issued: int
    """Requests that LoadGen issued."""
    num_done: int
    """Requests reported complete."""
    num_distinct: int
    """Distinct samples among them."""
    num_short: int
    """Answers of 0 or 1 tokens."""
    received_tokens: int
    """All tokens in frames, from every stream."""
    reported_tokens: int
    """Sum of n_tokens given to LoadGen."""
    produced_tokens: int
    """Sum of what the engines report as produced, over the streams that answered at the end."""
    lost_tokens: int
    """Received on lost streams; how many more their engines produced is unknown."""
    dropped_tokens: int
    """Received for requests that had already been moved to another worker."""
    spec_hashes: tuple[str, ...]
    """Hash that the worker sent in `opened`, one per stream ever opened."""
    num_losses: int
    """Worker losses."""
    num_continued: int
    """Requests that continued on another worker at least once."""
    num_silent: int
    """Workers that were not lost but did not report at the end how many tokens their engines produced."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """Pauses of one kind."""

    num: int = 0
    """Number of measurements."""
    total_ns: int = 0
    worst_ns: int = 0
    num_long: int = 0
    """Number above PAUSE_BOUND_NS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFigures:
    """The system clock, which LoadGen uses, compared with clocks that are never set."""

    num_looks: int
    elapsed_ns: int
    """Between the first and the last reading, by CLOCK_MONOTONIC."""
    worst_step_ns: int
    """Largest change against CLOCK_MONOTONIC between two readings, signed; slewing moves both clocks."""
    drift_ns: int
    """Change against CLOCK_MONOTONIC_RAW between the first and the last reading, signed; includes slewing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Pauses and clock of the coordinator during a run."""

    gc: Pauses
    """Garbage collections, in any thread."""
    loop: Pauses
    """Delays of a timer of the event loop."""
    clock: ClockFigures


def loadgen_result(detail: DetailLog) -> VerdictCheck:
    """Require LoadGen's VALID; its reason is empty if early stopping alone fails."""
    result = detail.values.get("result_validity")
    unmet = [f"not {key}" for key in _CONSTRAINTS if detail.values.get(key) is False]
    reasons = ", ".join([str(detail.values.get("result_invalid_reason") or ""), *unmet]).strip(", ")
    return VerdictCheck(
        "loadgen_result", result == "VALID", f"{result}" + (f" ({reasons})" if reasons else "")
    )


def loadgen_errors(detail: DetailLog) -> VerdictCheck:
    """Require a detail log without errors; LoadGen's VALID does not depend on them."""
    first = f", first {detail.errors[0]}" if detail.errors else ""
    return VerdictCheck(
        "loadgen_errors", not detail.errors, f"{len(detail.errors)} errors in the detail log{first}"
    )


def completion(counts: Counts) -> VerdictCheck:
    """Require one answer for each request."""
    same = counts.num_issued == counts.num_done
    return VerdictCheck("completion", same, f"{counts.num_issued} issued, {counts.num_done} complete")


def tokens(counts: Counts) -> VerdictCheck:
    """Require that received tokens equal those reported and dropped, and those produced and lost."""
    home = counts.reported_tokens + counts.dropped_tokens
    out = counts.produced_tokens + counts.lost_tokens
    seen = (
        f"engines produced {counts.produced_tokens}, lost streams brought {counts.lost_tokens}, "
        f"received {counts.received_tokens}, reported {counts.reported_tokens}, "
        f"dropped {counts.dropped_tokens}"
    )
    if counts.num_silent:
        seen += f", {counts.num_silent} workers did not report what theirs produced"
    return VerdictCheck("tokens", out == counts.received_tokens == home and not counts.num_silent, seen)


def loadgen_tokens(detail: DetailLog, scenario: Scenario, counts: Counts) -> VerdictCheck:
    """Require that LoadGen's sum of tokens, computed from its rates, equals the sum reported to it.

    All rates of a run divide by the same time T, which cancels: Offline prints samples / T, Server
    (samples - 1) / T, both tokens / T. LoadGen leaves answers of 0 and 1 tokens out of its sum.

    Source: loadgen/results.cc, PerformanceSummary; loadgen/logging.cc, RecordTokenCompletion.
    """
    logged = _logged_sum(detail, scenario)
    if logged is None:
        return VerdictCheck("loadgen_tokens", True, "LoadGen printed no rates to compare with")
    high = counts.reported_tokens
    low = high - counts.num_short
    error = high * _QUOTIENT_ERROR
    same = low - error <= logged <= high + error
    seen = f"LoadGen's rates say {logged:.1f}, reported {high}, bound {error:.2g}"
    return VerdictCheck(
        "loadgen_tokens", same, seen + (f" and {counts.num_short}" if counts.num_short else "")
    )


def _logged_sum(detail: DetailLog, scenario: Scenario) -> float | None:
    """Compute tokens from LoadGen's rates; None if it printed no rates, or rates over one query."""
    offline = scenario is Scenario.OFFLINE
    rates = ("result_completed_tokens_per_second", "result_completed_samples_per_sec")
    if offline:
        rates = ("result_tokens_per_second", "result_samples_per_second")
    keys = ("result_query_count", "generated_samples_per_query", *rates)
    found = [value for key in keys if isinstance(value := detail.values.get(key), int | float)]
    if len(found) < len(keys) or found[-1] <= 0:
        return None
    num_queries, samples_per_query, tokens_per_s, samples_per_s = found
    num_samples = num_queries * samples_per_query
    return tokens_per_s / samples_per_s * (num_samples if offline else num_samples - 1)


def accuracy_log(accuracy: AccuracyLog, expected: int | None) -> VerdictCheck:
    """Compare the log's tokens with its bytes and, if it holds every answer, with those reported."""
    same = accuracy.num_bytes == 4 * accuracy.num_tokens and expected in (None, accuracy.num_tokens)
    seen = f"{accuracy.entries.total()} entries, {accuracy.num_tokens} tokens, {accuracy.num_bytes} bytes"
    return VerdictCheck("accuracy_log", same, seen)


def coverage(detail: DetailLog, num_samples: int, counts: Counts) -> VerdictCheck:
    """Require every sample that LoadGen loaded in a performance run."""
    expected = _num_loaded(detail, num_samples)
    return VerdictCheck(
        "coverage", counts.num_distinct == expected, f"{counts.num_distinct} of {expected} samples"
    )


def logged_samples(detail: DetailLog, num_samples: int, accuracy: AccuracyLog) -> VerdictCheck:
    """Require every sample that LoadGen loaded at least once in the accuracy log of a compliance test."""
    expected = _num_loaded(detail, num_samples)
    logged = len(accuracy.entries)
    return VerdictCheck(
        "logged_samples", logged == expected, f"{logged} of {expected} samples in the accuracy log"
    )


def _num_loaded(detail: DetailLog, num_samples: int) -> int:
    loaded = detail.values.get("effective_performance_sample_count")
    return min(num_samples, loaded) if isinstance(loaded, int) else num_samples


def accuracy_coverage(accuracy: AccuracyLog, expected: int) -> VerdictCheck:
    """Require each sample exactly once in the accuracy log of an accuracy run."""
    once = [sample for sample in range(expected) if accuracy.entries[sample] == 1]
    extra = accuracy.entries.total() - len(once)
    seen = f"{len(once)} of {expected} samples exactly once, {extra} other entries"
    return VerdictCheck("coverage", len(once) == expected and extra == 0, seen)


def configuration(counts: Counts) -> VerdictCheck:
    """Require one specification on every stream ever opened."""
    kinds = sorted(set(counts.spec_hashes))
    seen = f"{len(counts.spec_hashes)} streams, specification {', '.join(kind[:12] for kind in kinds) or '-'}"
    return VerdictCheck("configuration", len(kinds) == 1, seen)


def continuation(counts: Counts) -> VerdictCheck:
    """Report worker losses and continued requests; never fails."""
    seen = f"{counts.num_losses} workers lost, {counts.num_continued} requests continued elsewhere"
    return VerdictCheck("continuation", True, seen, warning=counts.num_losses + counts.num_continued > 0)


def short_answers(counts: Counts) -> VerdictCheck:
    """Report answers that LoadGen counts as errors, which fail loadgen_errors; never fails itself."""
    seen = f"{counts.num_short} answers of 0 or 1 tokens"
    return VerdictCheck("short_answers", True, seen, warning=counts.num_short > 0)


def pauses(telemetry: Telemetry) -> VerdictCheck:
    """Report long pauses; never fails, because LoadGen's latencies include them."""
    parts = [
        f"{name}: worst {found.worst_ns / 1e6:.1f} ms, {found.num_long} of {found.num} above "
        f"{PAUSE_BOUND_NS // 10**6} ms, {found.total_ns / 1e6:.1f} ms in all"
        for name, found in (("gc", telemetry.gc), ("event loop", telemetry.loop))
    ]
    return VerdictCheck(
        "pauses", True, "; ".join(parts), warning=telemetry.gc.num_long + telemetry.loop.num_long > 0
    )


def clock(telemetry: Telemetry) -> VerdictCheck:
    """Require a system clock without steps: LoadGen measures with it, so a step falsifies latencies.

    Source: loadgen/logging.h, PerfClock is std::chrono::high_resolution_clock, libstdc++'s system_clock.
    """
    figures = telemetry.clock
    if figures.num_looks < 2:
        return VerdictCheck("clock", True, f"{figures.num_looks} readings, too few to compare", warning=True)
    allowed_ns = STEP_BOUND_NS + figures.elapsed_ns * DRIFT_BOUND_PPM // 10**6
    steady = abs(figures.worst_step_ns) <= STEP_BOUND_NS and abs(figures.drift_ns) <= allowed_ns
    seen = (
        f"largest step {figures.worst_step_ns / 1e6:.3f} ms of {STEP_BOUND_NS // 10**6} ms, drift "
        f"{figures.drift_ns / 1e6:.3f} ms of {allowed_ns / 1e6:.1f} ms in {figures.elapsed_ns / 1e9:.1f} s"
    )
    return VerdictCheck("clock", steady, seen)
