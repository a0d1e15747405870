"""The checks of a verdict: each looks at one thing and says in one line what it saw."""

from dataclasses import dataclass

from sut.results.logs import AccuracyLog, DetailLog
from sut.settings import Scenario

PAUSE_BOUND_NS = 100_000_000
"""A pause of the coordinator above this is worth a look: it is part of some request's latency."""
STEP_BOUND_NS = 5_000_000
"""The smallest step of the clock that makes a run INVALID."""
DRIFT_BOUND_PPM = 500
"""The fastest slew of Linux's clock discipline (adjtimex, MAXFREQ)."""
# LoadGen prints six digits, so a figure is off by half a unit of the sixth: 5e-6 of it where it begins
# with 1.00000, less elsewhere. A quotient of two is off by (1 + 5e-6) / (1 - 5e-6) - 1 = 1.000005e-5.
_QUOTIENT_ERROR = 1.00001e-5
# What LoadGen says it is satisfied with or not (loadgen/results.cc).
_CONSTRAINTS = (
    "result_perf_constraints_met",
    "result_min_duration_met",
    "result_min_queries_met",
    "early_stopping_met",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict."""

    name: str
    passed: bool
    seen: str
    warning: bool = False
    """Passed, but worth a look."""

    @property
    def mark(self) -> str:
        """Say it in four characters: ok, warn or FAIL."""
        if not self.passed:
            return "FAIL"
        return "warn" if self.warning else "ok  "


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
    """All tokens in frames, from every stream."""
    reported_tokens: int
    """Sum of n_tokens given to LoadGen."""
    produced_tokens: int
    """Sum of what the engines say they produced, over the streams that answered at the end."""
    lost_tokens: int
    """Received on streams that were lost; what their engines produced beyond that is unknown."""
    dropped_tokens: int
    """Came for requests that had been moved away."""
    spec_hashes: tuple[str, ...]
    """What the worker answered to open, one per stream ever opened."""
    num_losses: int
    """Worker losses."""
    num_continued: int
    """Requests that continued elsewhere at least once."""
    num_silent: int
    """Workers that were not lost and yet did not say at the end what their engines produced."""


@dataclass(frozen=True, slots=True)
class Pauses:
    """Times in which a thing did not go on."""

    num: int = 0
    """How often it was measured."""
    total_ns: int = 0
    worst_ns: int = 0
    num_long: int = 0
    """Those above PAUSE_BOUND_NS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFigures:
    """The system clock, which LoadGen measures by, against clocks that nobody sets."""

    num_looks: int
    elapsed_ns: int
    """From the first look to the last, by CLOCK_MONOTONIC."""
    worst_step_ns: int
    """Largest change against CLOCK_MONOTONIC between two looks, signed; slewing moves both alike."""
    drift_ns: int
    """Change against CLOCK_MONOTONIC_RAW from the first look to the last, signed; slewing included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """How steadily the coordinator's process and its clock ran."""

    gc: Pauses
    """Garbage collections, of any thread."""
    loop: Pauses
    """How late the event loop came to a timer."""
    clock: ClockFigures


def loadgen_result(detail: DetailLog) -> Check:
    """Want LoadGen's VALID; its own reason is empty where too few queries make it sure of a percentile."""
    result = detail.values.get("result_validity")
    unmet = [f"not {key}" for key in _CONSTRAINTS if detail.values.get(key) is False]
    reasons = ", ".join([str(detail.values.get("result_invalid_reason") or ""), *unmet]).strip(", ")
    return Check("loadgen_result", result == "VALID", f"{result}" + (f" ({reasons})" if reasons else ""))


def loadgen_errors(detail: DetailLog) -> Check:
    """Want a detail log without errors; LoadGen's own VALID does not depend on them."""
    first = f", first {detail.errors[0]}" if detail.errors else ""
    return Check("loadgen_errors", not detail.errors, f"{len(detail.errors)} errors in the detail log{first}")


def completion(counts: Counts) -> Check:
    """Want as many answers as requests."""
    same = counts.num_issued == counts.num_done
    return Check("completion", same, f"{counts.num_issued} issued, {counts.num_done} complete")


def tokens(counts: Counts) -> Check:
    """Want each token that came to be reported or dropped, and to be produced or of a lost stream."""
    home = counts.reported_tokens + counts.dropped_tokens
    out = counts.produced_tokens + counts.lost_tokens
    seen = (
        f"engines produced {counts.produced_tokens}, lost streams brought {counts.lost_tokens}, "
        f"received {counts.received_tokens}, reported {counts.reported_tokens}, "
        f"dropped {counts.dropped_tokens}"
    )
    if counts.num_silent:
        seen += f", {counts.num_silent} workers do not say what theirs produced"
    return Check("tokens", out == counts.received_tokens == home and not counts.num_silent, seen)


def loadgen_tokens(detail: DetailLog, scenario: Scenario, counts: Counts) -> Check:
    """Want LoadGen's own sum of tokens, as its rates give it, to be the one reported to it.

    Rates of one run share their time, so it falls out: Offline prints samples / T, Server
    (samples - 1) / T, both tokens / T. LoadGen leaves answers of 0 and 1 tokens out of its sum.

    Source: loadgen/results.cc, PerformanceSummary; loadgen/logging.cc, RecordTokenCompletion.
    """
    logged = _logged_sum(detail, scenario)
    if logged is None:
        return Check("loadgen_tokens", True, "LoadGen printed no rates to compare with")
    high = counts.reported_tokens
    low = high - counts.num_short
    error = high * _QUOTIENT_ERROR
    same = low - error <= logged <= high + error
    seen = f"LoadGen's rates say {logged:.1f}, reported {high}, bound {error:.2g}"
    return Check("loadgen_tokens", same, seen + (f" and {counts.num_short}" if counts.num_short else ""))


def _logged_sum(detail: DetailLog, scenario: Scenario) -> float | None:
    """Compute tokens from LoadGen's rates; None where it printed none, or a rate over one query."""
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


def accuracy_log(accuracy: AccuracyLog, expected: int | None) -> Check:
    """Compare the log's tokens with its bytes and, where it holds every answer, with those expected."""
    same = accuracy.num_bytes == 4 * accuracy.num_tokens and expected in (None, accuracy.num_tokens)
    seen = f"{accuracy.entries.total()} entries, {accuracy.num_tokens} tokens, {accuracy.num_bytes} bytes"
    return Check("accuracy_log", same, seen)


def coverage(detail: DetailLog, num_samples: int, counts: Counts) -> Check:
    """Want each sample that LoadGen loaded in a performance run."""
    expected = _num_loaded(detail, num_samples)
    return Check("coverage", counts.num_distinct == expected, f"{counts.num_distinct} of {expected} samples")


def logged_samples(detail: DetailLog, num_samples: int, accuracy: AccuracyLog) -> Check:
    """Want each sample that LoadGen loaded, once or more, in the log of a compliance test."""
    expected = _num_loaded(detail, num_samples)
    logged = len(accuracy.entries)
    return Check("logged_samples", logged == expected, f"{logged} of {expected} samples in the accuracy log")


def _num_loaded(detail: DetailLog, num_samples: int) -> int:
    loaded = detail.values.get("effective_performance_sample_count")
    return min(num_samples, loaded) if isinstance(loaded, int) else num_samples


def accuracy_coverage(accuracy: AccuracyLog, expected: int) -> Check:
    """Want each of the first samples exactly once in an accuracy run's log."""
    once = [sample for sample in range(expected) if accuracy.entries[sample] == 1]
    extra = accuracy.entries.total() - len(once)
    seen = f"{len(once)} of {expected} samples exactly once, {extra} other entries"
    return Check("coverage", len(once) == expected and extra == 0, seen)


def configuration(counts: Counts) -> Check:
    """Want one specification on every stream ever opened."""
    kinds = sorted(set(counts.spec_hashes))
    seen = f"{len(counts.spec_hashes)} streams, specification {', '.join(kind[:12] for kind in kinds) or '-'}"
    return Check("configuration", len(kinds) == 1, seen)


def continuation(counts: Counts) -> Check:
    """Tell what was lost and went on; it fails nothing."""
    seen = f"{counts.num_losses} workers lost, {counts.num_continued} requests continued elsewhere"
    return Check("continuation", True, seen, warning=counts.num_losses + counts.num_continued > 0)


def short_answers(counts: Counts) -> Check:
    """Tell the answers that LoadGen takes for errors; loadgen_errors fails by them."""
    seen = f"{counts.num_short} answers of 0 or 1 tokens"
    return Check("short_answers", True, seen, warning=counts.num_short > 0)


def pauses(telemetry: Telemetry) -> Check:
    """Tell the long pauses; they are in the latencies already, so they fail nothing."""
    parts = [
        f"{name}: worst {found.worst_ns / 1e6:.1f} ms, {found.num_long} of {found.num} above "
        f"{PAUSE_BOUND_NS // 10**6} ms, {found.total_ns / 1e6:.1f} ms in all"
        for name, found in (("gc", telemetry.gc), ("event loop", telemetry.loop))
    ]
    return Check(
        "pauses", True, "; ".join(parts), warning=telemetry.gc.num_long + telemetry.loop.num_long > 0
    )


def clock(telemetry: Telemetry) -> Check:
    """Want a system clock that nobody stepped: LoadGen measures by it, and a step is in its latencies.

    Source: loadgen/logging.h, PerfClock is std::chrono::high_resolution_clock, libstdc++'s system_clock.
    """
    figures = telemetry.clock
    if figures.num_looks < 2:
        return Check("clock", True, f"{figures.num_looks} looks, too few to compare", warning=True)
    allowed_ns = STEP_BOUND_NS + figures.elapsed_ns * DRIFT_BOUND_PPM // 10**6
    steady = abs(figures.worst_step_ns) <= STEP_BOUND_NS and abs(figures.drift_ns) <= allowed_ns
    seen = (
        f"largest step {figures.worst_step_ns / 1e6:.3f} ms of {STEP_BOUND_NS // 10**6} ms, drift "
        f"{figures.drift_ns / 1e6:.3f} ms of {allowed_ns / 1e6:.1f} ms in {figures.elapsed_ns / 1e9:.1f} s"
    )
    return Check("clock", steady, seen)
