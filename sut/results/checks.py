"""The checks of a verdict: each compares two sources and reports its result in one line."""

from dataclasses import dataclass
from typing import NamedTuple

from sut.benchmark import MeanBounds
from sut.results.compilations import WorkerCompilations, describe
from sut.results.deviations import Setup
from sut.results.logs import AccuracyLog, DetailLog
from sut.results.telemetry import DRIFT_BOUND_PPM, PAUSE_BOUND_NS, STEP_BOUND_NS, Telemetry
from sut.settings import Scenario

DEGENERATE_BOUND = 0.01
"""Largest share of degenerate answers in a graded run.

A degenerate answer is wrong, and the checker requires 99 % of the reference's accuracy: a model as good as
the reference misses that if more than 1 % of its answers are degenerate.
"""
MAX_NAMED_ANSWERS = 20
"""Short answers that the verdict names; the others are counted."""
# LoadGen prints six digits, so the relative error of a figure is at most half a unit of the sixth digit,
# 5e-6 for 1.00000. The error of a quotient of two is at most (1 + 5e-6) / (1 - 5e-6) - 1 = 1.000005e-5.
_QUOTIENT_ERROR = 1.00001e-5
# LoadGen's conditions for VALID (loadgen/results.cc).
_CONSTRAINTS = (
    "result_perf_constraints_met",
    "result_min_duration_met",
    "result_min_queries_met",
    "early_stopping_met",
)
_EARLY_STOPPING = ("early_stopping_ttft_result", "early_stopping_tpot_result")


@dataclass(frozen=True, slots=True)
class VerdictCheck:
    """Result of one check: one line of the verdict."""

    name: str
    passed: bool
    seen: str
    warning: bool = False
    """The check passed, but the user should look at it."""

    @property
    def mark(self) -> str:
        """Result in four characters: ok, warn or FAIL."""
        if not self.passed:
            return "FAIL"
        return "warn" if self.warning else "ok  "


class ShortAnswer(NamedTuple):
    """An answer of 0 or 1 tokens."""

    sample: int
    """Sample index."""
    address: str
    """Worker that ended it."""
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The coordinator's counts, independent of LoadGen's."""

    num_issued: int
    """Requests that LoadGen issued."""
    num_done: int
    """Requests reported complete."""
    num_distinct: int
    """Distinct samples among them."""
    num_short: int
    """Answers of 0 or 1 tokens."""
    short_answers: tuple[ShortAnswer, ...] = ()
    """The first MAX_NAMED_ANSWERS of them."""
    received_tokens: int
    """Tokens in all frames of all streams."""
    reported_tokens: int
    """Sum of n_tokens reported to LoadGen."""
    produced_tokens: int
    """Sum of the engines' own token counts, over the streams that reported final counts."""
    lost_tokens: int
    """Tokens received on lost streams; their engines' own counts are unknown."""
    dropped_tokens: int
    """Tokens received for requests that had already moved to another worker."""
    spec_hashes: tuple[str, ...]
    """Hash in the worker's `opened` message, one per stream of the run."""
    num_losses: int
    """Number of worker losses."""
    num_continued: int
    """Requests that continued on another worker at least once."""
    num_repeated_answers: int
    """Answers of at least 8 tokens that repeat one token."""
    num_equal_answers: int
    """Answers of at least 8 tokens that equal an earlier answer to a different prompt."""
    num_silent: int
    """Workers that were not lost but did not report final token counts."""
    num_workers: int = 0
    compilations: tuple[WorkerCompilations, ...] = ()
    """Of the workers whose engines tell."""
    execution_differences: tuple[str, ...]
    """One line for each property in which workers may differ, and do, over all streams of the run."""
    worker_warnings: tuple[str, ...] = ()
    """One line for each warning of workers, over all streams of the run."""


def loadgen_result(detail: DetailLog) -> VerdictCheck:
    """Require LoadGen's VALID; if only early stopping fails, LoadGen has its reason under another key."""
    result = detail.values.get("result_validity")
    unmet = [f"not {key}" for key in _CONSTRAINTS if detail.values.get(key) is False]
    reasons = ", ".join([*_invalid_reasons(detail), *unmet])
    return VerdictCheck(
        "loadgen_result", result == "VALID", f"{result}" + (f" ({reasons})" if reasons else "")
    )


def _invalid_reasons(detail: DetailLog) -> list[str]:
    reason = str(detail.values.get("result_invalid_reason") or "")
    if not reason and detail.values.get("early_stopping_met") is False:
        reason = "".join(str(detail.values.get(key) or "") for key in _EARLY_STOPPING)
    return _sentences(reason)


def _sentences(text: str) -> list[str]:
    """Split a text of LoadGen, which joins sentences with bullets and line breaks; each is given once."""
    parts = (" ".join(part.split()).strip("*. ") for part in text.split(" * "))
    return list(dict.fromkeys(filter(None, parts)))


def loadgen_errors(detail: DetailLog, accuracy: bool) -> VerdictCheck:
    """Require a whole detail log without errors; LoadGen's VALID does not depend on them.

    LoadGen does not check its writes: on a full disk the log ends early, and errors behind that are missing.
    """
    last_key = "power_end" if accuracy else "num_errors"
    if last_key not in detail.values:
        return VerdictCheck("loadgen_errors", False, f"the detail log is cut short: it has no {last_key}")
    first = f", first {detail.errors[0]}" if detail.errors else ""
    return VerdictCheck(
        "loadgen_errors", not detail.errors, f"{len(detail.errors)} errors in the detail log{first}"
    )


def completion(counts: Counts) -> VerdictCheck:
    """Require that every issued request has been completed."""
    same = counts.num_issued == counts.num_done
    return VerdictCheck("completion", same, f"{counts.num_issued} issued, {counts.num_done} complete")


def tokens(counts: Counts) -> VerdictCheck:
    """Require received tokens = reported + dropped = produced + lost."""
    delivered = counts.reported_tokens + counts.dropped_tokens
    sent = counts.produced_tokens + counts.lost_tokens
    seen = (
        f"engines produced {counts.produced_tokens}, lost streams delivered {counts.lost_tokens}, "
        f"received {counts.received_tokens}, reported {counts.reported_tokens}, "
        f"dropped {counts.dropped_tokens}"
    )
    if counts.num_silent:
        seen += f", {counts.num_silent} workers did not report how many tokens their engines produced"
    return VerdictCheck("tokens", sent == counts.received_tokens == delivered and not counts.num_silent, seen)


def loadgen_tokens(detail: DetailLog, scenario: Scenario, counts: Counts) -> VerdictCheck:
    """Require that LoadGen's number of tokens, computed from its rates, equals the number reported to it.

    All rates of a run have the same duration T, which cancels: Offline prints samples / T, Server
    (samples - 1) / T, both print tokens / T. LoadGen omits answers of 0 and 1 tokens from its sum.
    Accuracy runs have no rates. A performance run without rates was not compared: a warning.

    Source: loadgen/results.cc, PerformanceSummary; loadgen/logging.cc, RecordTokenCompletion.
    """
    logged = _logged_sum(detail, scenario)
    if logged is None:
        is_performance = "result_validity" in detail.values
        seen = "LoadGen printed no rates to compare with"
        return VerdictCheck("loadgen_tokens", True, seen, warning=is_performance)
    high = counts.reported_tokens
    low = high - counts.num_short
    error = high * _QUOTIENT_ERROR
    same = low - error <= logged <= high + error
    seen = f"LoadGen's rates imply {logged:.1f}, reported {high}, bound {error:.2g}"
    return VerdictCheck(
        "loadgen_tokens", same, seen + (f" and {counts.num_short}" if counts.num_short else "")
    )


def _logged_sum(detail: DetailLog, scenario: Scenario) -> float | None:
    """Compute the number of tokens from LoadGen's rates; None without rates, or for a single query."""
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
    """Compare the log's tokens with its bytes, and with the reported tokens if it has every answer.

    The scripts that grade read the log as one JSON list, which a full disk cuts short.
    """
    same = (
        accuracy.is_whole
        and accuracy.num_bytes == 4 * accuracy.num_tokens
        and expected in (None, accuracy.num_tokens)
    )
    seen = f"{accuracy.entries.total()} entries, {accuracy.num_tokens} tokens, {accuracy.num_bytes} bytes"
    seen += "" if accuracy.is_whole else ", cut short: the list is not closed"
    return VerdictCheck("accuracy_log", same, seen)


def coverage(detail: DetailLog, num_samples: int, counts: Counts) -> VerdictCheck:
    """Require that a performance run has completed every sample that LoadGen loaded."""
    expected = _num_loaded(detail, num_samples)
    return VerdictCheck(
        "coverage", counts.num_distinct == expected, f"{counts.num_distinct} of {expected} samples"
    )


def logged_samples(detail: DetailLog, num_samples: int, accuracy: AccuracyLog) -> VerdictCheck:
    """Require that a compliance test's accuracy log has every sample that LoadGen loaded."""
    expected = _num_loaded(detail, num_samples)
    logged = len(accuracy.entries)
    return VerdictCheck(
        "logged_samples", logged == expected, f"{logged} of {expected} samples in the accuracy log"
    )


def _num_loaded(detail: DetailLog, num_samples: int) -> int:
    loaded = detail.values.get("effective_performance_sample_count")
    return min(num_samples, loaded) if isinstance(loaded, int) else num_samples


def accuracy_coverage(accuracy: AccuracyLog, expected: int) -> VerdictCheck:
    """Require that an accuracy run's accuracy log has each sample exactly once."""
    once = [sample for sample in range(expected) if accuracy.entries[sample] == 1]
    extra = accuracy.entries.total() - len(once)
    seen = f"{len(once)} of {expected} samples exactly once, {extra} other entries"
    return VerdictCheck("coverage", len(once) == expected and extra == 0, seen)


def output_length(accuracy: AccuracyLog, bounds: MeanBounds) -> VerdictCheck:
    """Require a mean answer length within a compliance test's bounds.

    Source: compliance/TEST09/run_verification.py: the mean of len(data) / 4 over all entries of the accuracy
    log, both bounds inclusive.
    """
    mean = accuracy.num_bytes / 4 / max(accuracy.entries.total(), 1)
    return VerdictCheck(
        "output_length",
        bounds.low <= mean <= bounds.high,
        f"mean answer {mean:.2f} tokens of {bounds.low} to {bounds.high}",
    )


def accuracy_score(score_percent: float, target_percent: float) -> VerdictCheck:
    """Compare the score of the answers with the smallest score of a submission."""
    seen = f"score {score_percent:.4f}, at least {target_percent:g} needed"
    return VerdictCheck("accuracy", score_percent >= target_percent, seen)


def degenerate_answers(counts: Counts, setup: Setup) -> VerdictCheck:
    """Require few degenerate answers in a graded run: those that repeat one token or equal another one.

    In any other run, or with random weights, many of them are a warning.
    """
    bound = DEGENERATE_BOUND * counts.num_done
    many = max(counts.num_repeated_answers, counts.num_equal_answers) > bound
    seen = (
        f"{counts.num_repeated_answers} of {counts.num_done} answers repeat one token, "
        f"{counts.num_equal_answers} equal the answer to another prompt, bound {bound:g} each"
    )
    passed = not many or setup.grader is None or setup.random_weights
    return VerdictCheck("degenerate_answers", passed, seen, warning=many)


def configuration(counts: Counts) -> VerdictCheck:
    """Require the same run hash on all streams of the run."""
    kinds = sorted(set(counts.spec_hashes))
    seen = f"{len(counts.spec_hashes)} streams, run hash {', '.join(kind[:12] for kind in kinds) or '-'}"
    return VerdictCheck("configuration", len(kinds) == 1, seen)


def equal_execution(counts: Counts) -> VerdictCheck:
    """Report differences in parallel sizes, backends, batch limits and CUDA graphs; never fails."""
    differing = counts.execution_differences
    seen = "; ".join(differing) or "parallel sizes, backends and batch limits are equal"
    return VerdictCheck("equal_execution", True, seen, warning=bool(differing))


def worker_warnings(counts: Counts) -> VerdictCheck:
    """Report what makes workers slower than their flags suggest, as they say themselves; never fails."""
    seen = "; ".join(counts.worker_warnings) or "no worker warns"
    return VerdictCheck("worker_warnings", True, seen, warning=bool(counts.worker_warnings))


def compiled_kernels(counts: Counts) -> VerdictCheck:
    """Report kernels compiled inside the run, which add to latencies; never fails."""
    seen = describe(counts.compilations, counts.num_workers)
    return VerdictCheck("compiled_kernels", True, seen, warning=any(one.num for one in counts.compilations))


def continuation(counts: Counts) -> VerdictCheck:
    """Report worker losses and continued requests; never fails."""
    seen = f"{counts.num_losses} workers lost, {counts.num_continued} requests continued on another worker"
    return VerdictCheck("continuation", True, seen, warning=counts.num_losses + counts.num_continued > 0)


def short_answers(counts: Counts) -> VerdictCheck:
    """Report answers that LoadGen counts as errors, which fail loadgen_errors; never fails itself."""
    named = [f"sample {sample} of {at}: {num}" for sample, at, num in counts.short_answers]
    more = counts.num_short - len(named)
    seen = f"{counts.num_short} answers of 0 or 1 tokens"
    if named:
        seen += f" ({', '.join(named)}{f' and {more} more' if more else ''})"
    return VerdictCheck("short_answers", True, seen, warning=counts.num_short > 0)


def pauses(telemetry: Telemetry) -> VerdictCheck:
    """Report what kept the coordinator from running; never fails, because LoadGen's latencies include it."""
    kinds = {"gc": telemetry.gc, "event loop": telemetry.loop, "issue": telemetry.issue}
    parts = [
        f"{name}: worst {found.worst_ns / 1e6:.1f} ms, {found.num_long} of {found.num} above "
        f"{PAUSE_BOUND_NS // 10**6} ms, {found.total_ns / 1e6:.1f} ms in all"
        for name, found in kinds.items()
    ]
    is_short = False
    if telemetry.cores is not None:
        parts.append(str(telemetry.cores))
        is_short = telemetry.cores.is_short
    warns = is_short or any(found.num_long for found in kinds.values())
    return VerdictCheck("pauses", True, "; ".join(parts), warning=warns)


def clock(telemetry: Telemetry) -> VerdictCheck:
    """Require a system clock without steps: LoadGen uses it, so a step falsifies latencies.

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
