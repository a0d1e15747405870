"""Compliance tests: named by their audit.config's keys, judged at the end of the run or left to a grader."""

from pathlib import Path

import pytest

from sut.benchmark import BENCHMARK
from sut.data_rules import find_compliance_test
from sut.loadgen_conf import AUDIT_FLAG, official_audit_config, parse_conf
from sut.results.checks import Counts
from sut.results.verdict import Outcome, Verdict, judge
from tests.sut.handmade_logs import (
    AUDITED,
    COUNTS,
    GOOD,
    OFFLINE,
    PERFORMANCE,
    STEADY,
    accuracy_line,
    setup_of,
    write_logs,
)

# compliance/TEST07/gpt-oss-120b/audit.config and TEST09's (mlcommons/inference), without their comments.
COMMON = "*.*.mode = 2\n*.*.accuracy_log_sampling_target = 10000\n*.*.min_duration = 0\n"
TEST07 = f"{COMMON}*.*.performance_issue_unique = 1\n*.*.test07_accuracy_threshold = 60.698\n"
TEST09 = f"{COMMON}*.*.test09_min_output_tokens = 1150.38\n*.*.test09_max_output_tokens = 1406.02\n"


def judge_test(directory: Path, audit: str, lens: list[int], **values: object) -> Verdict:
    """Judge a compliance run in which sample i has an answer of lens[i] tokens."""
    entries = [accuracy_line(i, "01000000" * num, num) for i, num in enumerate(lens)]
    logged = GOOD | AUDITED | {"effective_performance_sample_count": len(lens)} | values
    write_logs(directory, logged, [], entries)
    requests = dict.fromkeys(("num_issued", "num_done", "num_distinct"), len(lens))
    tokens = dict.fromkeys(("received_tokens", "reported_tokens", "produced_tokens"), sum(lens))
    counts = Counts(**(COUNTS | requests | tokens | {"num_short": 0}))
    setup = setup_of(OFFLINE, PERFORMANCE, len(lens), audit_config=audit)
    return judge(directory, setup, counts, STEADY)[0]


def lens_of(total: int) -> list[int]:
    """Divide a number of tokens over 50 answers."""
    return [total // 50 + (i < total % 50) for i in range(50)]


@pytest.mark.parametrize(
    ("total", "seen"),
    [
        # 1150.38 * 50 = 57,519 and 1406.02 * 50 = 70,301: both bounds are inclusive.
        (57_518, "mean answer 1150.36 tokens of 1150.38 to 1406.02"),
        (57_519, ""),
        (70_301, ""),
        (70_302, "mean answer 1406.04 tokens of 1150.38 to 1406.02"),
        (50_000, "mean answer 1000.00 tokens of 1150.38 to 1406.02"),
        (0, "mean answer 0.00 tokens of 1150.38 to 1406.02"),
    ],
)
def test_test09_is_decided_by_its_mean_answer_length(tmp_path: Path, total: int, seen: str) -> None:
    """TEST09 is VALID within the official bounds of the mean and INVALID outside, with the mean."""
    verdict = judge_test(tmp_path, TEST09, lens_of(total))
    expected = (Outcome.INVALID, f"output_length: {seen}") if seen else (Outcome.VALID, "")
    assert expected == (verdict.outcome, verdict.reason)


def test_bounds_that_an_audit_config_widens_decide_nothing(tmp_path: Path) -> None:
    """Thresholds other than the official ones are a deviation, and the official ones decide."""
    audit = TEST09.replace("1150.38", "1")
    verdict = judge_test(tmp_path, audit, lens_of(50_000))
    assert verdict.outcome is Outcome.INVALID
    assert "test09_min_output_tokens is 1, not 1150.38" in verdict.deviations


def test_test07_is_left_to_its_grader(tmp_path: Path) -> None:
    """TEST07 is never VALID: its answers are not graded, whatever their length."""
    verdict = judge_test(tmp_path, TEST07, lens_of(50_000))
    reason = "complete, not graded: run_verification.py of TEST07 grades the answers"
    assert (Outcome.NOT_GRADED, reason) == (verdict.outcome, verdict.reason)
    assert "output_length" not in [check.name for check in verdict.checks]


@pytest.mark.parametrize("audit", [TEST07, TEST09])
def test_a_compliance_test_whose_log_is_a_sample_is_invalid(tmp_path: Path, audit: str) -> None:
    """If LoadGen logs only a share of the answers, the test cannot be decided: samples are missing."""
    values = {"effective_performance_sample_count": 60, "effective_min_sample_count": 20_000}
    judge_test(tmp_path, audit, lens_of(1278 * 50), **values)
    setup = setup_of(OFFLINE, PERFORMANCE, 60, audit_config=audit)
    counts = Counts(**(COUNTS | {"num_issued": 60, "num_done": 60, "num_distinct": 60, "num_short": 0}))
    verdict, _ = judge(tmp_path, setup, counts, STEADY)
    assert verdict.outcome is Outcome.INVALID
    assert "logged_samples: 50 of 60 samples in the accuracy log" in verdict.reason


def test_a_compliance_test_is_named_by_its_keys(tmp_path: Path) -> None:
    """A copied audit.config is recognised by its keys; a comment, no key and both keys are refused."""
    path = tmp_path / "audit.config"
    assert "TEST07" == find_compliance_test(parse_conf(AUDIT_FLAG, TEST07), path).name
    assert "TEST09" == find_compliance_test(parse_conf(AUDIT_FLAG, TEST09.replace("\n", "  \n")), path).name
    for text in ("", COMMON, f"# *.*.test07_accuracy_threshold = 60.698\n{COMMON}", TEST07 + TEST09):
        with pytest.raises(ValueError, match="must have the keys of exactly one test") as refused:
            find_compliance_test(parse_conf(AUDIT_FLAG, text), path)
        assert str(refused.value) == (
            f"--audit-config {path}: must have the keys of exactly one test (TEST07: "
            "test07_accuracy_threshold; TEST09: test09_min_output_tokens and test09_max_output_tokens)"
        )


def test_the_last_of_two_values_of_an_audit_config_counts() -> None:
    """Values are read by key, without comments, as LoadGen does."""
    text = "# *.*.min_duration = 1\n\n *.*.min_duration = 2\n*.Server.min_duration = 3 # 4\n"
    assert {"min_duration": "3"} == parse_conf(AUDIT_FLAG, text).values


def test_bounds_of_test09_are_ten_percent_around_the_mean() -> None:
    """1150.38 and 1406.02 are 0.9 and 1.1 times the reference's mean of 1278.20 tokens."""
    (test,) = [test for test in BENCHMARK.compliance_tests if test.mean_answer_len]
    assert test.mean_answer_len is not None
    assert pytest.approx(test.mean_answer_len) == (0.9 * 1278.2, 1.1 * 1278.2)
    assert ["1150.38", "1406.02"] == list(test.thresholds.values())


def test_the_built_in_settings_are_those_of_the_official_files() -> None:
    """Each sample is issued once and every answer is logged; thresholds and seed are the official ones."""
    found = {test.name: official_audit_config(test) for test in BENCHMARK.compliance_tests}
    common = {
        "mode": "2",
        "accuracy_log_rng_seed": "720381539243781796",
        "min_duration": "0",
        "performance_issue_unique": "1",
        "sample_concatenate_permutation": "0",
    }
    assert found["TEST07"].values == common | {
        "accuracy_log_sampling_target": "990",
        "min_query_count": "990",
        "test07_accuracy_threshold": "60.698",
    }
    assert found["TEST09"].values == common | {
        "accuracy_log_sampling_target": "10000",
        "min_query_count": "6396",
        "test09_min_output_tokens": "1150.38",
        "test09_max_output_tokens": "1406.02",
    }
