"""What scores and compliance verdicts must say before their run is submitted, at every bound."""

import json
from collections import Counter
from pathlib import Path

import pytest

from sut.results.logs import AccuracyLog
from sut.results.submission.grading_faults import grading_faults, lcb_tests_of, tokenizers_of
from sut.results.submission.recorded_runs import Division, RecordedRun, RunKind
from tests.sut.handmade_logs import OFFLINE

ACCURACY, TEST07, TEST09 = RunKind.ACCURACY, RunKind.TEST07, RunKind.TEST09
# All of AIME and GPQA, 2,484 programs: (240/8 + 990/5 + 2484/3) / (240/8 + 990/5 + 3165/3) = 1056 / 1283.
PASSING = {
    "aime25": {"correct": 240, "total": 240},
    "gpqa_diamond": {"correct": 990, "total": 990},
    "livecodebench_v6": {"correct": 2484, "total": 3165},
}
SCORE = 105_600 / 1283
# 82.3071; one program fewer makes 82.2811, which is below 82.2987.
REPORT = {
    "log_sha256": "log",
    "reference_sha256": "data",
    "tokenizer_sha256": "tokenizer",
    "lcb_tests_sha256": "tests",
    "score_percent": SCORE,
    "per_dataset": PASSING,
    "ungraded": [],
}
# 601 of 990 are 60.7071 %, above 60.698 %; 600 are 60.606 %.
GPQA_REPORT = REPORT | {
    "score_percent": 60_100 / 990,
    "per_dataset": {"gpqa_diamond": {"correct": 601, "total": 990}},
}


def run_of(directory: Path, kind: RunKind, num_samples: int) -> RecordedRun:
    """Make a run over that many samples of the data set."""
    record = {"dataset": {"sha256": "data", "num_samples": num_samples}}
    return RecordedRun(directory, OFFLINE, kind, record)


def log_of(num_answers: int, num_tokens: int) -> AccuracyLog:
    """Summarize a log of answers with that many tokens in all."""
    return AccuracyLog(Counter(range(num_answers)), num_tokens, 4 * num_tokens, is_whole=True)


def reasons_of(run: RecordedRun, log: AccuracyLog, division: Division = Division.CLOSED) -> list[str]:
    """List the faults without the name of the run, which all have, and without its directory."""
    faults = grading_faults(run, log, "log", division)
    assert {run.name} >= {fault.where for fault in faults}
    assert not any(fault.is_rule for fault in faults)
    return [fault.reason.replace(f"{run.directory}/", "") for fault in faults]


def score_faults(
    directory: Path, text: str | None = "82.307", division: Division = Division.CLOSED, **changed: object
) -> list[str]:
    """List the faults of an accuracy run with its report, changed, and the checker's score."""
    (directory / "accuracy.json").write_text(json.dumps(REPORT | changed))
    if text is not None:
        (directory / "accuracy.txt").write_text(f"table\n'exact_match': {text}\n")
    return reasons_of(run_of(directory, ACCURACY, 4395), log_of(4395, 9), division)


def counts(**correct: int) -> dict[str, object]:
    """Change the number of right rows of some data sets."""
    return {name: found | {"correct": correct.get(name, found["correct"])} for name, found in PASSING.items()}


def test_a_score_above_the_target_has_no_faults(tmp_path: Path) -> None:
    """A performance run needs no score at all."""
    assert [] == score_faults(tmp_path)
    (tmp_path / "empty").mkdir()
    assert [] == reasons_of(run_of(tmp_path / "empty", RunKind.PERFORMANCE, 6396), log_of(0, 0))


def test_a_score_below_the_target_is_named_but_in_the_open_division(tmp_path: Path) -> None:
    """One right program fewer is too few; the target itself is enough."""
    lower = {"score_percent": 105_566.6667 / 1283, "per_dataset": counts(livecodebench_v6=2483)}
    assert ["the score 82.281 is below 82.2987"] == score_faults(tmp_path, "82.281", **lower)
    assert ["the score 82.281 is below 82.2987"] == score_faults(
        tmp_path, "82.281", Division.NETWORK, **lower
    )
    assert [] == score_faults(tmp_path, "82.281", Division.OPEN, **lower)
    # The counts give another score, the target is reached.
    given = "accuracy.json has the score 82.299, its counts give 82.307"
    assert [given] == score_faults(tmp_path, "82.299", score_percent=82.2987)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"log_sha256": "other"}, "accuracy.json is the score of another accuracy log"),
        ({"reference_sha256": "x"}, "accuracy.json was graded by another data set than that of the run"),
        (
            {"score_percent": None, "ungraded": [{}, {}]},
            "accuracy.json has no score: 2 answers are ungraded",
        ),
        # (1056 - 30) / 1283: none of AIME is right.
        (
            {"per_dataset": counts(aime25=0)},
            "accuracy.json has the score 82.307, its counts give 79.969",
        ),
        ({"per_dataset": {}}, "accuracy.json counts 0 rows, the data set has 4395"),
        (
            {"per_dataset": counts() | {"aime25": {"correct": 239, "total": 239}}},
            "accuracy.json counts 4394 rows, the data set has 4395",
        ),
        *(
            (
                {"per_dataset": counts() | {"aime25": {"correct": right, "total": total}}},
                "the counts of aime25 in accuracy.json are no counts of its rows",
            )
            for right, total in ((241, 240), (-1, 240), (240, 4396), (True, 240), (1, 240.0), (None, 240))
        ),
        # 1 of 240 AIME rows is 1/8 of 1283 questions, 0.0097 %.
        (
            {"per_dataset": counts(aime25=239)},
            "accuracy.json has the score 82.307, its counts give 82.297",
        ),
    ],
)
def test_a_report_that_contradicts_its_run_is_named(
    tmp_path: Path, changed: dict[str, object], reason: str
) -> None:
    """Log, data, counts and score."""
    assert [reason] == score_faults(tmp_path, **changed)


def test_a_report_without_a_score_has_its_other_faults(tmp_path: Path) -> None:
    """The log comes first."""
    assert [
        "accuracy.json is the score of another accuracy log",
        "accuracy.json has no score: 0 answers are ungraded",
    ] == score_faults(tmp_path, score_percent="82.3", log_sha256="other")


def test_a_score_may_differ_from_its_counts_by_its_rounding(tmp_path: Path) -> None:
    """By 0.0006 %, in the report and in the text for the checker."""
    near, far = SCORE + 0.00059, SCORE + 0.00061
    assert [] == score_faults(tmp_path, f"{near:.6f}", score_percent=near)
    reason = "accuracy.json has the score 82.308, its counts give 82.307"
    assert [reason] == score_faults(tmp_path, f"{far:.6f}", score_percent=far)
    assert [] == score_faults(tmp_path, f"{SCORE - 0.00059:.6f}")
    assert 1 == len(score_faults(tmp_path, f"{SCORE - 0.00061:.6f}"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "accuracy.txt is missing"),
        ("82.307\n'exact_match': 82.307", "accuracy.txt has 2 lines with 'exact_match': X, not 1"),
        (" 82.307", "accuracy.txt has 0 lines with 'exact_match': X, not 1"),
        ("82.310", "accuracy.txt has the score 82.310, accuracy.json has 82.307"),
        ("8.2.3", "accuracy.txt has the score 8.2.3, accuracy.json has 82.307"),
    ],
)
def test_the_checkers_text_must_have_the_score_once(tmp_path: Path, text: str | None, reason: str) -> None:
    """The checker's pattern allows one space."""
    assert [reason] == score_faults(tmp_path, text)


def test_a_report_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Nothing else is asked then."""
    run = run_of(tmp_path, ACCURACY, 4395)
    written = "`tokenfleet accuracy` writes it"
    assert [f"accuracy.json is missing: {written}"] == reasons_of(run, log_of(4395, 9))
    (tmp_path / "accuracy.json").write_text("[]")
    (line,) = reasons_of(run, log_of(4395, 9))
    assert line.startswith("accuracy.json ")
    assert line.endswith(written)


def verdict(value: object, **changed: object) -> str:
    """Write compliance.json."""
    report = {"log_sha256": "log", "passed": True, "value": value, "reasons": []}
    return json.dumps(report | changed)


def compliance_faults(
    directory: Path, kind: RunKind, report: str, log: AccuracyLog, text: str = "x\nTEST PASS\n"
) -> list[str]:
    """List the faults of a compliance test whose files are these."""
    name = "verify_accuracy.txt" if kind is TEST07 else "verify_output_len.txt"
    (directory / name).write_text(text)
    (directory / "compliance.json").write_text(report)
    return reasons_of(run_of(directory, kind, 990 if kind is TEST07 else 6396), log)


# 8,174,088 tokens are 1,278 for each of the 6,396 answers.
WHOLE = log_of(6396, 8_174_088)


def test_a_test09_that_passed_has_no_faults(tmp_path: Path) -> None:
    """Its value may differ from the log's mean by 0.01 tokens."""
    for value in (1278.0, 1278.01, 1277.99):
        assert [] == compliance_faults(tmp_path, TEST09, verdict(value, test="TEST09"), WHOLE)
    for value in (1278.011, 1277.989):
        reason = f"compliance.json has the value {value}, this run has 1278.000"
        assert [reason] == compliance_faults(tmp_path, TEST09, verdict(value, test="TEST09"), WHOLE)


@pytest.mark.parametrize(
    ("num_tokens", "is_within"),
    # 1150.38 * 6396 = 7,357,830.48 and 1406.02 * 6396 = 8,992,903.92.
    [(7_357_831, True), (7_357_830, False), (8_992_903, True), (8_992_904, False), (0, False)],
)
def test_the_mean_of_the_log_must_be_within_the_bounds(
    tmp_path: Path, num_tokens: int, is_within: bool
) -> None:
    """The run's own log decides, whatever compliance.json says."""
    mean = num_tokens / 6396
    found = compliance_faults(tmp_path, TEST09, verdict(mean, test="TEST09"), log_of(6396, num_tokens))
    reason = f"the value {mean:.3f} is not within 1150.38 to 1406.02"
    assert ([] if is_within else [reason]) == found


@pytest.mark.parametrize("num_tokens", [57_519, 70_301])
def test_a_mean_at_a_bound_is_within(tmp_path: Path, num_tokens: int) -> None:
    """57,519 tokens of 50 answers are 1150.38 in the mean, and 70,301 are 1406.02."""
    report = verdict(num_tokens / 50, test="TEST09")
    assert [] == compliance_faults(tmp_path, TEST09, report, log_of(50, num_tokens))


def test_a_log_without_answers_has_the_mean_0(tmp_path: Path) -> None:
    """And one of a single answer its length."""
    found = compliance_faults(tmp_path, TEST09, verdict(0.0, test="TEST09"), log_of(0, 0))
    assert ["the value 0.000 is not within 1150.38 to 1406.02"] == found
    assert [] == compliance_faults(tmp_path, TEST09, verdict(1200.0, test="TEST09"), log_of(1, 1200))


@pytest.mark.parametrize(
    ("report", "text", "reason"),
    [
        (
            verdict(1278.0, test="TEST09"),
            "TEST PASSED\nTEST FAIL\n",
            "verify_output_len.txt does not have the line TEST PASS",
        ),
        (
            verdict(1278.0, test="TEST09", log_sha256="other"),
            "TEST PASS",
            "compliance.json is the verdict on another accuracy log",
        ),
        (verdict(1278.0, test="TEST07"), "TEST PASS", "TEST07 did not pass: 1278.0"),
        (
            verdict(1278.0, test="TEST09", passed=False, reasons=["a", "b"]),
            "TEST PASS",
            "TEST09 did not pass: a; b",
        ),
        (verdict(1278.0, test="TEST09", passed=1), "TEST PASS", "TEST09 did not pass: 1278.0"),
        (
            verdict("many", test="TEST09"),
            "TEST PASS",
            "compliance.json has the value many, this run has 1278.000",
        ),
    ],
)
def test_each_file_of_a_compliance_test_must_say_that_it_passed(
    tmp_path: Path, report: str, text: str, reason: str
) -> None:
    """One fault is one line."""
    assert [reason] == compliance_faults(tmp_path, TEST09, report, WHOLE, text)


def test_the_missing_files_of_a_compliance_test_are_named(tmp_path: Path) -> None:
    """Both are asked for."""
    written = "is missing: `tokenfleet compliance` writes it"
    expected = [f"verify_output_len.txt {written}", f"compliance.json {written}"]
    assert expected == reasons_of(run_of(tmp_path, TEST09, 6396), WHOLE)


def test_test07_is_decided_by_its_score(tmp_path: Path) -> None:
    """The score of the run's report, against 60.698; the accuracy target is not asked for."""
    log = log_of(990, 9)
    absent = "accuracy.json is missing: `tokenfleet accuracy` writes it"
    assert [absent] == compliance_faults(tmp_path, TEST07, verdict(60.707, test="TEST07"), log)
    (tmp_path / "accuracy.json").write_text(json.dumps(GPQA_REPORT))
    (tmp_path / "accuracy.txt").write_text("'exact_match': 60.707\n")
    assert [] == compliance_faults(tmp_path, TEST07, verdict(60.707, test="TEST07"), log)
    reason = "compliance.json has the value 60.706, this run has 60.707"
    assert [reason] == compliance_faults(tmp_path, TEST07, verdict(60.706, test="TEST07"), log)
    lower = {"score_percent": 60_000 / 990, "per_dataset": {"gpqa_diamond": {"correct": 600, "total": 990}}}
    (tmp_path / "accuracy.json").write_text(json.dumps(GPQA_REPORT | lower))
    (tmp_path / "accuracy.txt").write_text("'exact_match': 60.606\n")
    reason = "the value 60.606 is not within 60.698 to 100.0"
    assert [reason] == compliance_faults(tmp_path, TEST07, verdict(60.606, test="TEST07"), log)


def test_hashes_of_the_grading_are_those_of_graded_runs(tmp_path: Path) -> None:
    """The tokenizer's of every graded run, the tests' of accuracy runs."""
    (tmp_path / "accuracy.json").write_text(json.dumps(REPORT))
    runs = {kind: run_of(tmp_path, kind, 1) for kind in RunKind}
    graded = {ACCURACY: ["tokenizer"], TEST07: ["tokenizer"]}
    assert graded == {kind: found for kind, run in runs.items() if (found := tokenizers_of(run))}
    assert {ACCURACY: ["tests"]} == {
        kind: found for kind, run in runs.items() if (found := lcb_tests_of(run))
    }
    (tmp_path / "accuracy.json").write_text("{}")
    assert ["None"] == tokenizers_of(runs[ACCURACY])
    assert [] == lcb_tests_of(runs[ACCURACY])
    (tmp_path / "accuracy.json").unlink()
    assert [] == tokenizers_of(runs[ACCURACY]) == lcb_tests_of(runs[ACCURACY])
