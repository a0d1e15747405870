"""Checks with numeric bounds (LoadGen's rates, pauses, the clock) and checks that never fail."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sut.benchmark import MeanBounds
from sut.results.checks import (
    MAX_NAMED_ANSWERS,
    Counts,
    ShortAnswer,
    VerdictCheck,
    accuracy_score,
    clock,
    compiled_kernels,
    continuation,
    degenerate_answers,
    equal_execution,
    loadgen_result,
    loadgen_tokens,
    output_length,
    pauses,
    short_answers,
    tokens,
    worker_warnings,
)
from sut.results.compilations import WorkerCompilations
from sut.results.logs import AccuracyLog, DetailLog
from sut.results.telemetry import ClockFigures, CoreFigures, Pauses
from sut.results.verdict import Outcome
from sut.settings import Mode
from tests.sut.handmade_logs import (
    ACCURACY,
    COUNTS,
    OFFLINE,
    PERFORMANCE,
    SERVER,
    STEADY,
    STEADY_CLOCK,
    S,
    setup_of,
    verdict_of,
)
from tests.sut.test_compliance import TEST07, TEST09


def counts(**changed: int) -> Counts:
    """Counts of the good run, with changes."""
    return Counts(**(COUNTS | changed))


def rates(num_samples: int, num_tokens: int, time_s: float, offline: bool) -> DetailLog:
    """Write rates as LoadGen does, with six digits."""
    samples_per_s = (num_samples if offline else num_samples - 1) / time_s
    names = ("result_completed_tokens_per_second", "result_completed_samples_per_sec")
    if offline:
        names = ("result_tokens_per_second", "result_samples_per_second")
    values: dict[str, object] = {
        "result_query_count": 1 if offline else num_samples,
        "generated_samples_per_query": num_samples if offline else 1,
        names[0]: float(f"{num_tokens / time_s:.6g}"),
        names[1]: float(f"{samples_per_s:.6g}"),
    }
    return DetailLog(values, [])


@given(
    num_samples=st.integers(2, 100_000),
    num_tokens=st.integers(1, 10**10),
    time_s=st.floats(1e-3, 1e5),
    offline=st.booleans(),
)
# Near the worst: 10000.049 is printed as 10000 and 1.0000051 as 1.00001, a quotient off by 9.8e-6.
@example(num_samples=10_000_051, num_tokens=100_000_490_000, time_s=1e7, offline=True)
def test_six_digits_decide_to_one_part_in_a_hundred_thousand(
    num_samples: int, num_tokens: int, time_s: float, offline: bool
) -> None:
    """For any rates the true sum passes, and a sum wrong by 2.1e-5 plus one token fails."""
    detail = rates(num_samples, num_tokens, time_s, offline)
    scenario = OFFLINE if offline else SERVER
    same = counts(reported_tokens=num_tokens, num_short=0)
    assert loadgen_tokens(detail, scenario, same).passed
    wrong = int(num_tokens * 2.1e-5) + 1
    for reported in (num_tokens - wrong, num_tokens + wrong):
        assert not loadgen_tokens(
            detail, scenario, dataclasses.replace(same, reported_tokens=reported)
        ).passed


def test_the_other_scenarios_rates_are_not_taken() -> None:
    """Server's rates are not used in Offline: the check passes and reports that there are no rates."""
    check = loadgen_tokens(rates(10, 100, 1.0, offline=False), OFFLINE, counts())
    assert check == VerdictCheck("loadgen_tokens", True, "LoadGen printed no rates to compare with")


def test_a_performance_run_whose_tokens_were_not_compared_is_a_warning() -> None:
    """LoadGen logs its result of a performance run only; without rates the check passes with a warning."""
    assert "warn" == loadgen_tokens(DetailLog({"result_validity": "VALID"}, []), OFFLINE, counts()).mark
    assert "ok  " == loadgen_tokens(DetailLog({}, []), OFFLINE, counts()).mark


def test_a_rate_of_zero_is_not_compared() -> None:
    """A Server run of one query has (1 - 1) / T = 0 samples/s, by which no number of tokens is computed."""
    check = loadgen_tokens(rates(1, 5, 1.0, offline=False), SERVER, counts())
    assert (True, "LoadGen printed no rates to compare with") == (check.passed, check.seen)


@pytest.mark.parametrize(
    "key",
    [
        *("result_perf_constraints_met", "result_min_duration_met", "result_min_queries_met"),
        "early_stopping_met",
    ],
)
def test_each_condition_that_a_run_does_not_meet_is_named(key: str) -> None:
    """LoadGen's four conditions for VALID are named by their keys if they are false, and only then."""
    values: dict[str, object] = {"result_validity": "INVALID", key: False}
    assert VerdictCheck("loadgen_result", False, f"INVALID (not {key})") == loadgen_result(
        DetailLog(values, [])
    )
    met = DetailLog({"result_validity": "VALID", key: True}, [])
    assert VerdictCheck("loadgen_result", True, "VALID") == loadgen_result(met)


def test_early_stopping_is_explained_only_where_loadgen_gives_no_other_reason() -> None:
    """Its texts for TTFT and for TPOT are the reason of a run that only early stopping makes INVALID."""
    values: dict[str, object] = {
        "result_validity": "INVALID",
        "early_stopping_ttft_result": " * TTFT ran short.\n",
        "early_stopping_tpot_result": " * TPOT ran short.\n",
    }
    stopped = values | {"early_stopping_met": False}
    assert "INVALID (TTFT ran short, TPOT ran short, not early_stopping_met)" == (
        loadgen_result(DetailLog(stopped, [])).seen
    )
    told = stopped | {"result_invalid_reason": "Min duration"}
    assert "INVALID (Min duration, not early_stopping_met)" == loadgen_result(DetailLog(told, [])).seen
    assert "INVALID" == loadgen_result(DetailLog(values, [])).seen


def test_engines_that_do_not_tell_their_tokens_fail_the_check() -> None:
    """Equal sums prove nothing if a worker's own count is missing from them: the check fails and says so."""
    silent = tokens(counts(num_silent=2))
    assert not silent.passed
    assert silent.seen.endswith("dropped 0, 2 workers did not report how many tokens their engines produced")
    assert tokens(counts()).seen.endswith("reported 6, dropped 0")


@pytest.mark.parametrize(
    ("num_tokens", "num_entries", "passed"), [(3, 1, False), (4, 1, True), (12, 3, True), (0, 0, False)]
)
def test_the_mean_answer_is_over_the_entries_of_the_log(
    num_tokens: int, num_entries: int, passed: bool
) -> None:
    """Tokens are bytes / 4, and both bounds are inclusive; a log without entries has a mean of 0."""
    log = AccuracyLog(Counter(range(num_entries)), num_tokens, 4 * num_tokens, is_whole=True)
    mean = {(3, 1): "3.00", (4, 1): "4.00", (12, 3): "4.00", (0, 0): "0.00"}[num_tokens, num_entries]
    expected = VerdictCheck("output_length", passed, f"mean answer {mean} tokens of 4.0 to 4.0")
    assert expected == output_length(log, MeanBounds(4.0, 4.0))


@pytest.mark.parametrize(("score", "passed"), [(82.2987, True), (82.2986, False), (100.0, True)])
def test_a_score_passes_at_the_target(score: float, passed: bool) -> None:
    """The smallest score of a submission passes."""
    expected = VerdictCheck("accuracy", passed, f"score {score:.4f}, at least 82.2987 needed")
    assert expected == accuracy_score(score, 82.2987)


def test_tokens_of_lost_streams_and_of_moved_requests_are_accounted_for() -> None:
    """Tokens of lost streams are added to those produced, dropped tokens to those reported."""
    # 6 reported and 2 dropped are 8 received: 5 of engines that answered, 3 on lost streams.
    moved = counts(received_tokens=8, dropped_tokens=2, produced_tokens=5, lost_tokens=3)
    assert tokens(moved).passed
    for name in ("received_tokens", "reported_tokens", "produced_tokens", "lost_tokens", "dropped_tokens"):
        for change in (-1, 1):
            wrong = dataclasses.replace(moved, **{name: getattr(moved, name) + change})
            assert not tokens(wrong).passed, name


def test_a_continued_run_is_valid_and_says_so(tmp_path: Path) -> None:
    """Losses and continued requests give a warning in a VALID run; without them there is no warning."""
    assert continuation(counts()).mark == "ok  "
    assert ["warn", "warn"] == [
        continuation(counts(**{name: 1})).mark for name in ("num_losses", "num_continued")
    ]
    verdict = verdict_of(tmp_path, PERFORMANCE, counts={"num_losses": 1, "num_continued": 3})
    assert verdict.outcome is Outcome.VALID
    expected = VerdictCheck(
        "continuation", True, "1 workers lost, 3 requests continued on another worker", warning=True
    )
    assert expected in verdict.checks
    assert expected.mark == "warn"


@pytest.mark.parametrize("part", ["gc", "loop", "issue"])
def test_a_long_pause_is_a_warning(tmp_path: Path, part: str) -> None:
    """A pause above 100 ms, of any kind, is a warning with its length; 100 ms is not."""
    assert pauses(STEADY) == VerdictCheck(
        "pauses",
        True,
        "gc: worst 5.0 ms, 0 of 4 above 100 ms, 8.0 ms in all; "
        "event loop: worst 100.0 ms, 0 of 100 above 100 ms, 50.0 ms in all; "
        "issue: worst 20.0 ms, 0 of 103 above 100 ms, 60.0 ms in all; "
        "the event loop waited 0.50 s for a core, 5.0% of the test; "
        "a CPU quota stopped the coordinator in 1 of 100 periods",
    )
    long = Pauses(num=7, total_ns=250_000_000, worst_ns=123_400_000, num_long=2)
    verdict = verdict_of(tmp_path, PERFORMANCE, telemetry=dataclasses.replace(STEADY, **{part: long}))
    assert verdict.outcome is Outcome.VALID
    (found,) = [check for check in verdict.checks if check.name == "pauses"]
    assert found.mark == "warn"
    assert "worst 123.4 ms, 2 of 7 above 100 ms, 250.0 ms in all" in found.seen


@pytest.mark.parametrize(("waited_ms", "num_throttled"), [(501, 1), (500, 2)])
def test_a_coordinator_without_a_core_is_a_warning(waited_ms: int, num_throttled: int) -> None:
    """Of 10 s the event loop may wait 5 % for a core, and a quota may stop it in 1 % of its 100 periods."""
    cores = CoreFigures(10 * S, waited_ms * 1_000_000, num_periods=100, num_throttled=num_throttled)
    assert pauses(dataclasses.replace(STEADY, cores=cores)).warning
    assert not pauses(dataclasses.replace(STEADY, cores=None)).warning


def look(**changed: int) -> VerdictCheck:
    """Check a clock that was steady for 10 s, with changes."""
    figures: ClockFigures = dataclasses.replace(STEADY_CLOCK, **changed)
    return clock(dataclasses.replace(STEADY, clock=figures))


def test_a_stepped_clock_makes_the_run_invalid(tmp_path: Path) -> None:
    """A step above 5 ms in either direction fails the check clock and no other; 5 ms passes."""
    for step_ns in (5_000_001, -5_000_001):
        assert not look(worst_step_ns=step_ns).passed
        figures = dataclasses.replace(STEADY_CLOCK, worst_step_ns=step_ns)
        stepped = dataclasses.replace(STEADY, clock=figures)
        verdict = verdict_of(tmp_path, PERFORMANCE, telemetry=stepped)
        assert ["clock"] == [check.name for check in verdict.checks if not check.passed]
        assert verdict.outcome is Outcome.INVALID
    assert look(worst_step_ns=5_000_000) == VerdictCheck(
        "clock", True, "largest step 5.000 ms of 5 ms, drift -0.300 ms of 10.0 ms in 10.0 s"
    )


def test_a_clock_may_drift_as_fast_as_it_is_slewed() -> None:
    """A drift of 500 ppm (5 ms in 10 s) plus 5 ms passes in either direction; more fails."""
    assert [True, True] == [look(drift_ns=sign * 10_000_000).passed for sign in (1, -1)]
    assert [False, False] == [look(drift_ns=sign * 10_000_001).passed for sign in (1, -1)]
    # 5 ms + 500e-6 * 600 s.
    assert look(drift_ns=305_000_000, elapsed_ns=600 * S).passed
    assert not look(drift_ns=305_000_001, elapsed_ns=600 * S).passed


def test_a_clock_that_was_not_seen_twice_is_told() -> None:
    """With a single reading the check passes with a warning."""
    assert look(num_looks=1) == VerdictCheck("clock", True, "1 readings, too few to compare", warning=True)
    assert "ok  " == look(num_looks=2).mark
    assert not look(num_looks=2, worst_step_ns=5_000_001).passed


DEGENERATE = {"num_issued": 200, "num_done": 200, "num_distinct": 200}


def degenerate(
    mode: Mode, audit: str | None = None, *, repeated: int = 0, equal: int = 0, **changed: Any
) -> str:
    """Return the mark of degenerate_answers in a run of 200 answers, whose bound is 2."""
    found = counts(**DEGENERATE, num_repeated_answers=repeated, num_equal_answers=equal)
    return degenerate_answers(found, setup_of(OFFLINE, mode, 200, audit_config=audit, **changed)).mark.strip()


@pytest.mark.parametrize(("mode", "audit"), [(ACCURACY, None), (PERFORMANCE, TEST07)])
def test_more_than_one_percent_of_degenerate_answers_fail_a_graded_run(mode: Mode, audit: str | None) -> None:
    """2 of 200 answers that repeat one token, and 2 equal ones, pass; 3 of either fail."""
    assert "ok" == degenerate(mode, audit, repeated=2, equal=2)
    assert "FAIL" == degenerate(mode, audit, repeated=3)
    assert "FAIL" == degenerate(mode, audit, equal=3)
    assert "warn" == degenerate(mode, audit, repeated=200, equal=199, random_weights=True)


@pytest.mark.parametrize("audit", [None, TEST09])
def test_degenerate_answers_of_a_run_that_nobody_grades_are_a_warning(audit: str | None) -> None:
    """Above 1 % they are a warning in a performance run and in TEST09."""
    assert "ok" == degenerate(PERFORMANCE, audit, repeated=2)
    assert "warn" == degenerate(PERFORMANCE, audit, repeated=200)


def test_answers_of_an_engine_that_computes_nan_make_the_run_invalid(tmp_path: Path) -> None:
    """If all answers repeat one token, accuracy is INVALID, with the counts and the bound in the reason."""
    verdict = verdict_of(tmp_path, ACCURACY, counts={"num_repeated_answers": 3, "num_equal_answers": 2})
    reason = "3 of 3 answers repeat one token, 2 equal the answer to another prompt, bound 0.03 each"
    assert (Outcome.INVALID, f"degenerate_answers: {reason}") == (verdict.outcome, verdict.reason)
    verdict = verdict_of(tmp_path, ACCURACY, counts={"num_repeated_answers": 3}, random_weights=True)
    assert verdict.outcome is Outcome.NOT_GRADED
    assert "--random-weights: the answers are those of no trained model" in verdict.deviations


def test_kernels_compiled_in_the_run_are_a_warning() -> None:
    """One worker of several that compiled is enough; none that did, or none that tells, is no warning."""
    idle = WorkerCompilations("a:1", 0, 0, 0, ())
    busy = WorkerCompilations("b:2", 1, 0, 12, ("gemm",))
    check = compiled_kernels(Counts(**(COUNTS | {"num_workers": 2, "compilations": (idle, busy)})))
    seen = "1 kernels were compiled inside the run on 1 of 2 workers, for 12 ms on b:2: gemm"
    assert VerdictCheck("compiled_kernels", True, seen, warning=True) == check
    quiet = compiled_kernels(Counts(**(COUNTS | {"num_workers": 1, "compilations": (idle,)})))
    seen = "no kernel was compiled inside the run"
    assert VerdictCheck("compiled_kernels", True, seen) == quiet
    assert not compiled_kernels(counts(num_workers=1)).warning


def test_short_answers_beyond_the_named_are_counted() -> None:
    """Each named answer has its sample, worker and length; the others are one number."""
    named = tuple(ShortAnswer(sample, "a:1", 1) for sample in range(MAX_NAMED_ANSWERS))
    seen = short_answers(Counts(**(COUNTS | {"num_short": 23, "short_answers": named}))).seen
    assert seen.startswith("23 answers of 0 or 1 tokens (sample 0 of a:1: 1, sample 1 of a:1: 1, ")
    assert seen.endswith(", sample 19 of a:1: 1 and 3 more)")
    assert "ok  " == short_answers(counts(num_short=0)).mark


def test_workers_that_execute_differently_are_a_warning() -> None:
    """Parallel sizes, backends and batch limits may differ: the line names them, and the run stays VALID."""
    seen = "parallel sizes, backends and batch limits are equal"
    assert VerdictCheck("equal_execution", True, seen) == equal_execution(counts())
    differing = ("block_size: 16 at a:1, 32 at b:2", "max_num_seqs: 8 at a:1, 9 at b:2")
    seen = "block_size: 16 at a:1, 32 at b:2; max_num_seqs: 8 at a:1, 9 at b:2"
    expected = VerdictCheck("equal_execution", True, seen, warning=True)
    assert expected == equal_execution(counts(execution_differences=differing))


def test_what_workers_warn_of_is_a_warning() -> None:
    """The lines of the workers are one; without any the check is well."""
    assert VerdictCheck("worker_warnings", True, "no worker warns") == worker_warnings(counts())
    expected = VerdictCheck("worker_warnings", True, "a:1: slow; b:2: slower", warning=True)
    assert expected == worker_warnings(counts(worker_warnings=("a:1: slow", "b:2: slower")))
