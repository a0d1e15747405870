"""The verdict, with logs written by hand: each fault fails its check and no other."""

from pathlib import Path
from typing import Any

import pytest

from sut.results.checks import Counts, VerdictCheck, accuracy_score
from sut.results.logs import DetailLog
from sut.results.verdict import COMPLETE, COMPLETE_CODES, Outcome, exit_code, judge
from sut.settings import Mode
from tests.sut.handmade_logs import (
    ACCURACY,
    ANSWERS,
    AUDITED,
    COUNTS,
    GOOD,
    OFFLINE,
    PERFORMANCE,
    STEADY,
    accuracy_line,
    entries,
    setup_of,
    verdict_of,
    write_logs,
)
from tests.sut.test_compliance import TEST07, TEST09


@pytest.mark.parametrize("mode", [PERFORMANCE, ACCURACY])
def test_a_good_run_is_valid(tmp_path: Path, mode: Mode) -> None:
    """Good logs and equal counts pass every check; a short answer is a warning; accuracy is not graded."""
    verdict = verdict_of(tmp_path, mode)
    not_graded = "complete, not graded: eval_mlperf_accuracy.py grades the answers"
    expected = (Outcome.VALID, "") if mode is PERFORMANCE else (Outcome.NOT_GRADED, not_graded)
    assert (verdict.outcome, verdict.reason) == expected
    assert [check for check in verdict.checks if not check.passed] == []
    names = [check.name for check in verdict.checks]
    assert ("loadgen_result" in names) == (mode is PERFORMANCE)
    assert {"loadgen_errors", "completion", "tokens", "accuracy_log", "coverage", "short_answers"} <= set(
        names
    )
    assert VerdictCheck("short_answers", True, "1 answers of 0 or 1 tokens", warning=True) in verdict.checks


def test_the_checks_of_each_kind_of_run_are_complete(tmp_path: Path) -> None:
    """A check that is not made cannot fail: each kind of run makes all of its checks, in this order."""
    begin = ["loadgen_errors", "completion", "tokens", "loadgen_tokens", "accuracy_log"]
    end = [
        *("degenerate_answers", "configuration", "equal_execution", "worker_warnings", "compiled_kernels"),
        *("continuation", "short_answers", "pauses", "clock"),
    ]

    def made(mode: Mode, **changed: Any) -> list[str]:
        return [check.name for check in verdict_of(tmp_path, mode, **changed).checks]

    assert [*begin, "coverage", *end] == made(ACCURACY)
    assert ["loadgen_result", *begin, "coverage", *end] == made(PERFORMANCE)
    whole = {"values": AUDITED, "accuracy": entries(0, 1, 2)}
    logged = [*begin, "coverage", "logged_samples"]
    assert ["loadgen_result", *logged, *end] == made(PERFORMANCE, audit_config=TEST07, **whole)
    assert ["loadgen_result", *logged, "output_length", *end] == (
        made(PERFORMANCE, audit_config=TEST09, **whole)
    )


def test_a_score_decides_a_run_that_was_not_graded(tmp_path: Path) -> None:
    """The score is one more check; without one the run stays NOT_GRADED and has the reason."""
    verdict = verdict_of(tmp_path, ACCURACY)
    passed = accuracy_score(90.0, 82.2987)
    right = verdict.graded(passed)
    assert (Outcome.VALID, "", (*verdict.checks, passed)) == (right.outcome, right.reason, right.checks)
    failed = accuracy_score(80.0, 82.2987)
    wrong = verdict.graded(failed)
    reason = "accuracy: score 80.0000, at least 82.2987 needed"
    assert (Outcome.INVALID, reason) == (wrong.outcome, wrong.reason)
    assert (*verdict.checks, failed) == wrong.checks
    kept = verdict.not_graded("no file of tests")
    assert (Outcome.NOT_GRADED, "complete, not graded: no file of tests") == (kept.outcome, kept.reason)
    assert verdict.checks == kept.checks
    assert verdict.deviations == right.deviations == wrong.deviations == kept.deviations


def test_outcomes_have_the_names_that_a_record_holds() -> None:
    """Records of earlier runs hold these names; only two of them give the logs their accepted names."""
    names = ["UNFINISHED", "VALID", "NOT_GRADED", "INVALID", "FAILED", "INTERRUPTED"]
    assert names == [str(outcome) for outcome in Outcome]
    assert names[1:3] == [str(outcome) for outcome in Outcome if outcome.accepted]
    assert names[1:4] == [str(outcome) for outcome in COMPLETE]
    assert {0, 3} == COMPLETE_CODES


def told(num_tokens: int) -> dict[str, int]:
    """Equal counts of tokens received, reported and produced."""
    return dict.fromkeys(("received_tokens", "reported_tokens", "produced_tokens"), num_tokens)


FAILURES: dict[str, tuple[Mode, dict[str, Any], str, str]] = {
    "invalid by LoadGen": (
        PERFORMANCE,
        {"values": {"result_validity": "INVALID"}},
        "loadgen_result",
        "INVALID",
    ),
    "reason of LoadGen": (
        PERFORMANCE,
        {"values": {"result_validity": "INVALID", "result_invalid_reason": "Min duration"}},
        "loadgen_result",
        "INVALID (Min duration)",
    ),
    "reason that LoadGen has beside": (
        PERFORMANCE,
        {
            "values": {
                "result_validity": "INVALID",
                "result_min_queries_met": True,
                "early_stopping_met": False,
            }
        },
        "loadgen_result",
        "INVALID (not early_stopping_met)",
    ),
    "early stopping of both limits, as LoadGen 6.0.17 tells it": (
        PERFORMANCE,
        {
            "values": {
                "result_validity": "INVALID",
                "early_stopping_met": False,
                "early_stopping_ttft_result": " * Run unsuccessful.\n * Processed 9 queries.\n",
                "early_stopping_tpot_result": " * Run unsuccessful.\n * Processed 9 queries.\n * Would\n",
            }
        },
        "loadgen_result",
        "INVALID (Run unsuccessful, Processed 9 queries, Would, not early_stopping_met)",
    ),
    "reasons with bullets and spaces, as LoadGen 6.0.17 joins them": (
        PERFORMANCE,
        {
            "values": {
                "result_validity": "INVALID",
                "result_invalid_reason": "TTFT constrain not met: Reduce target QPS to improve latency. "
                " * TPOT constrain not met: Reduce target QPS to improve latency. ",
                "result_perf_constraints_met": False,
            }
        },
        "loadgen_result",
        "INVALID (TTFT constrain not met: Reduce target QPS to improve latency, "
        "TPOT constrain not met: Reduce target QPS to improve latency, not result_perf_constraints_met)",
    ),
    "no result": (PERFORMANCE, {"values": {"result_validity": None}}, "loadgen_result", "None"),
    "error, performance": (PERFORMANCE, {"errors": ["n_tokens 0"]}, "loadgen_errors", "1 errors"),
    "errors, accuracy": (ACCURACY, {"errors": ["first", "second"]}, "loadgen_errors", "2 errors"),
    "first error is named": (
        ACCURACY,
        {"errors": ["first", "second"]},
        "loadgen_errors",
        "error_runtime: first",
    ),
    "detail log cut short": (
        PERFORMANCE,
        {"drop": "num_errors"},
        "loadgen_errors",
        "cut short: it has no num_errors",
    ),
    "detail log cut short, accuracy": (
        ACCURACY,
        {"drop": "power_end"},
        "loadgen_errors",
        "cut short: it has no power_end",
    ),
    "lost request": (PERFORMANCE, {"counts": {"num_done": 2}}, "completion", "3 issued, 2 complete"),
    "double completion": (ACCURACY, {"counts": {"num_done": 4}}, "completion", "3 issued, 4 complete"),
    "engine produced more": (
        PERFORMANCE,
        {"counts": {"produced_tokens": 7}},
        "tokens",
        "produced 7, lost streams delivered 0, received 6",
    ),
    "engine produced less": (
        ACCURACY,
        {"counts": {"produced_tokens": 5}},
        "tokens",
        "produced 5, lost streams delivered 0, received 6",
    ),
    "received more": (PERFORMANCE, {"counts": {"received_tokens": 7}}, "tokens", "received 7, reported 6"),
    "reported less": (PERFORMANCE, {"counts": {"reported_tokens": 5}}, "tokens", "received 6, reported 5"),
    "lost tokens forgotten": (
        PERFORMANCE,
        {"counts": {"produced_tokens": 2}},
        "tokens",
        "produced 2, lost streams delivered 0, received 6, reported 6, dropped 0",
    ),
    "dropped tokens reported": (ACCURACY, {"counts": {"dropped_tokens": 1}}, "tokens", "dropped 1"),
    "LoadGen counted less": (
        PERFORMANCE,
        {"values": {"result_tokens_per_second": 49.9}},
        "loadgen_tokens",
        "LoadGen's rates imply 5.0, reported 6, bound 6e-05 and 1",
    ),
    "LoadGen counted more": (
        PERFORMANCE,
        {"values": {"result_tokens_per_second": 60.01}},
        "loadgen_tokens",
        "imply 6.0, reported 6",
    ),
    "two specifications": (
        ACCURACY,
        {"counts": {"spec_hashes": ("a" * 64, "b" * 64, "a" * 64)}},
        "configuration",
        f"3 streams, run hash {'a' * 12}, {'b' * 12}",
    ),
    "no stream": (PERFORMANCE, {"counts": {"spec_hashes": ()}}, "configuration", "0 streams, run hash -"),
    "sample never issued": (PERFORMANCE, {"counts": {"num_distinct": 2}}, "coverage", "2 of 3 samples"),
    "sample missing": (
        ACCURACY,
        {"accuracy": entries(0, 2), "counts": told(4)},
        "coverage",
        "2 of 3 samples exactly once, 0 other",
    ),
    "sample twice": (
        ACCURACY,
        {"accuracy": entries(0, 1, 2, 1), "counts": told(8)},
        "coverage",
        "2 of 3 samples exactly once, 2 other",
    ),
    "sample instead of another": (
        ACCURACY,
        {"accuracy": entries(0, 1, 1), "counts": told(7)},
        "coverage",
        "1 of 3 samples exactly once, 2 other",
    ),
    "sample out of range": (
        ACCURACY,
        {"accuracy": entries(0, 1, 2, 3), "counts": told(9)},
        "coverage",
        "3 of 3 samples exactly once, 1 other",
    ),
    "empty accuracy log": (ACCURACY, {"accuracy": [], "counts": told(0)}, "coverage", "0 of 3 samples"),
    "bytes of another count": (
        ACCURACY,
        {"accuracy": [*entries(0, 1), accuracy_line(2, ANSWERS[2], 2)], "counts": told(7)},
        "accuracy_log",
        "3 entries, 7 tokens, 24 bytes",
    ),
    "tokens that LoadGen has not logged": (ACCURACY, {"counts": told(7)}, "accuracy_log", "6 tokens"),
    "bytes of another count in an audit": (
        PERFORMANCE,
        {"accuracy": [*entries(0, 1), accuracy_line(2, "", 1)]},
        "accuracy_log",
        "3 entries, 6 tokens, 20 bytes",
    ),
    "sample not logged in a compliance test": (
        PERFORMANCE,
        {"values": AUDITED, "accuracy": entries(0, 2, 0), "counts": told(7) | {"num_short": 2}},
        "logged_samples",
        "2 of 3 samples in the accuracy log",
    ),
    "tokens that LoadGen has not logged in a compliance test": (
        PERFORMANCE,
        {"values": AUDITED, "accuracy": entries(0, 1, 2), "counts": told(7) | {"num_short": 2}},
        "accuracy_log",
        "6 tokens",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_wrong_fails_its_check_and_no_other(tmp_path: Path, name: str) -> None:
    """One fault makes the run INVALID and fails one check; the reason names the check and its finding."""
    mode, changed, failing, seen = FAILURES[name]
    verdict = verdict_of(tmp_path, mode, **changed)
    assert [failing] == [check.name for check in verdict.checks if not check.passed]
    assert verdict.outcome is Outcome.INVALID
    assert verdict.reason.startswith(f"{failing}: ")
    assert seen in verdict.reason


def test_every_fault_is_in_the_reason(tmp_path: Path) -> None:
    """Several faults are all named in one reason, in the order of the checks."""
    verdict = verdict_of(
        tmp_path, PERFORMANCE, errors=["bad"], counts={"num_done": 2, "num_distinct": 2, "produced_tokens": 9}
    )
    assert [part.split(":")[0] for part in verdict.reason.split("; ")] == [
        *("loadgen_errors", "completion", "tokens", "coverage")
    ]


def test_coverage_follows_the_smaller_of_data_set_and_loaded_samples(tmp_path: Path) -> None:
    """A performance run must cover each loaded sample, an accuracy run at most the first 4,395."""
    values: dict[str, object] = {"effective_performance_sample_count": 3}
    assert verdict_of(tmp_path, PERFORMANCE, values=values).outcome is Outcome.VALID
    values = {"effective_performance_sample_count": 2}
    verdict = verdict_of(tmp_path, PERFORMANCE, values=values, counts={"num_distinct": 2})
    assert verdict.outcome is Outcome.VALID
    write_logs(tmp_path, GOOD, [], entries(*range(4395)))
    # 1,465 answers each of 3, 2 and 1 tokens.
    requests = dict.fromkeys(("num_issued", "num_done", "num_distinct"), 4395)
    counts = Counts(**(COUNTS | requests | told(8790)))
    assert judge(tmp_path, setup_of(OFFLINE, ACCURACY, 6396), counts, STEADY)[0].outcome is Outcome.NOT_GRADED


@pytest.mark.parametrize(
    "values, logged",
    [
        # At least one query is expected, and 10,000 are logged.
        (AUDITED, True),
        (AUDITED | {"effective_min_sample_count": 10_000}, True),
        # A share of 10000 / 10001 is logged.
        (AUDITED | {"effective_min_sample_count": 10_001}, False),
        # 20 queries/s for 500 s are 10,000; for 501 s 20 more.
        (AUDITED | {"effective_target_qps": 20, "effective_min_duration_ms": 500_000}, True),
        (AUDITED | {"effective_target_qps": 20, "effective_min_duration_ms": 501_000}, False),
        # 10,000.98 queries are 10,000, and 10,001 are one too many.
        (AUDITED | {"effective_target_qps": 20, "effective_min_duration_ms": 500_049}, True),
        (AUDITED | {"effective_target_qps": 20, "effective_min_duration_ms": 500_050}, False),
        (AUDITED | {"effective_accuracy_log_sampling_target": 0}, False),
        ({}, False),
    ],
)
def test_a_log_is_whole_where_the_target_is_all_that_is_expected(
    values: dict[str, object], logged: bool
) -> None:
    """LoadGen logs every answer if the sampling target is at least the number it expects to issue."""
    assert logged == DetailLog(values, []).logs_every_answer


def test_a_compliance_log_holds_each_sample_once_or_more(tmp_path: Path) -> None:
    """A compliance run of 4 answers over 3 samples is VALID; if LoadGen samples answers, none is required."""
    # 3, 2, 1 and 3 tokens; LoadGen's rates leave the token of the one-token answer out: 80 / 40 * 4 = 8.
    rates = {
        "generated_samples_per_query": 4,
        "result_tokens_per_second": 80,
        "result_samples_per_second": 40,
    }
    counts = told(9) | {"num_issued": 4, "num_done": 4}
    logged = entries(0, 1, 2, 0)
    verdict = verdict_of(tmp_path, PERFORMANCE, values=AUDITED | rates, accuracy=logged, counts=counts)
    assert (Outcome.VALID, "") == (verdict.outcome, verdict.reason)
    assert VerdictCheck("logged_samples", True, "3 of 3 samples in the accuracy log") in verdict.checks
    sampled = AUDITED | {"effective_min_sample_count": 20_000}
    verdict = verdict_of(tmp_path, PERFORMANCE, values=sampled, accuracy=entries(1))
    assert Outcome.VALID is verdict.outcome
    assert "logged_samples" not in [check.name for check in verdict.checks]


def test_a_deviation_makes_no_run_invalid(tmp_path: Path) -> None:
    """A smoke run over 3 samples is VALID and lists its deviations."""
    verdict = verdict_of(tmp_path, PERFORMANCE, values={"effective_performance_sample_count": 3})
    assert verdict.outcome is Outcome.VALID
    assert "effective_performance_sample_count is 3, not 6396" in verdict.deviations


def test_exit_codes_are_those_of_the_readme() -> None:
    """VALID is 0, FAILED 1, INVALID 3."""
    assert [exit_code(o) for o in (Outcome.VALID, Outcome.FAILED, Outcome.INVALID)] == [0, 1, 3]


def test_an_accuracy_log_whose_list_is_not_closed_is_invalid(tmp_path: Path) -> None:
    """With every entry but no closing bracket the log fails accuracy_log: no script can read it."""
    verdict_of(tmp_path, ACCURACY)
    path = tmp_path / "mlperf_log_accuracy.json"
    path.write_text(path.read_text().rstrip("\n]"))
    verdict, _ = judge(tmp_path, setup_of(OFFLINE, ACCURACY, 3), Counts(**COUNTS), STEADY)
    seen = "3 entries, 6 tokens, 24 bytes, cut short: the list is not closed"
    assert (Outcome.INVALID, f"accuracy_log: {seen}") == (verdict.outcome, verdict.reason)
