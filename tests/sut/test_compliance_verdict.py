"""Compliance tests of runs that exist: value, coverage and the files that the submission checker reads."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sut.benchmark import BENCHMARK
from sut.byte_tokenizer import CHANNEL, MESSAGE, RETURN, encode, write_tokenizer
from sut.results.compliance.__main__ import main
from sut.results.compliance.compliance_verdict import LengthFigures, decide
from sut.results.compliance.verification_text import accuracy_text, output_length_text
from tests.sut.handmade_logs import accuracy_line

TEST07, TEST09 = (BENCHMARK.compliance_test_named(name) for name in ("TEST07", "TEST09"))
NUM_GPQA = 990


def of_mean(total: int) -> LengthFigures:
    """Describe 6,396 answers with so many tokens in all."""
    return LengthFigures(range(6396), [total // 6396 + (row < total % 6396) for row in range(6396)])


@pytest.mark.parametrize(
    "total, reason",
    [
        # 6396 * 1278 tokens.
        (8_174_088, ""),
        # 1150.38 * 6396 = 7,357,830.48 and 1406.02 * 6396 = 8,992,903.92.
        (7_357_831, ""),
        (7_357_830, "the mean answer length is 1150.380, not in 1150.38 to 1406.02"),
        (8_992_903, ""),
        (8_992_904, "the mean answer length is 1406.020, not in 1150.38 to 1406.02"),
        (6_396_000, "the mean answer length is 1000.000, not in 1150.38 to 1406.02"),
    ],
)
def test_test09_passes_within_the_bounds_of_the_mean(total: int, reason: str) -> None:
    """The official bounds decide: 1,278 tokens pass, 1,000 fail, and one token beyond a bound fails."""
    verdict = decide(TEST09, of_mean(total), None, [], "")
    assert (verdict.passed, verdict.reasons) == (not reason, (reason,) if reason else ())


def test_every_sample_must_be_in_the_log_once() -> None:
    """Samples missing, doubled or unknown fail a test whose mean is right; each kind is named and counted."""
    samples = [*range(2, 6394), 7, 7, 6396, 10_000]
    verdict = decide(TEST09, LengthFigures(samples, [1278] * 6396), None, [], "")
    assert (verdict.value, verdict.num_samples) == (1278.0, 6394)
    assert verdict.reasons == (
        "4 of 6396 samples are missing, first sample 0",
        "1 of 6396 samples are in the log more than once, first sample 7",
        "2 of 6396 samples are not one of 0..6395, first sample 6396",
    )
    assert output_length_text(verdict, of_mean(0)).splitlines()[-1] == "TEST FAIL"


def test_figures_of_few_answers_are_theirs() -> None:
    """One answer has its own length as mean; without answers mean and deviation are 0."""
    assert (7.0, 0.0) == (LengthFigures([0], [7]).mean, LengthFigures([0], [7]).deviation)
    assert (0.0, 0.0) == (LengthFigures([], []).mean, LengthFigures([], []).deviation)


def test_a_sample_that_is_twice_in_the_log_is_counted() -> None:
    """Two entries are more than once, as three are."""
    assert [
        "1 of 4 samples are missing, first sample 3",
        "2 of 4 samples are in the log more than once, first sample 1",
        "1 of 4 samples are not one of 0..3, first sample -1",
    ] == LengthFigures([2, 1, 0, 2, 1, 1, -1], [1] * 7).gaps(4)
    assert [] == LengthFigures([3, 1, 0, 2], [1] * 4).gaps(4)


def test_the_verdict_in_json_has_value_bounds_and_log() -> None:
    """Format 1: whoever reads it finds what was decided, by which bounds, and over which log."""
    verdict = decide(TEST07, LengthFigures(range(989), [9] * 989), 60.5, ["the run is INVALID: why"], "ab")
    assert {
        "format": 1,
        "test": "TEST07",
        "passed": False,
        "value": 60.5,
        "bounds": [60.698, 100.0],
        "num_samples": 989,
        "num_expected": 990,
        "reasons": [
            "the run is INVALID: why",
            "1 of 990 samples are missing, first sample 989",
            "the score is 60.500, not in 60.698 to 100.0",
        ],
        "log_sha256": "ab",
    } == json.loads(verdict.to_json())


@pytest.mark.parametrize(
    "score, passed", [(60.698, True), (60.697, False), (100.0, True), (0.0, False), (None, False)]
)
def test_test07_passes_at_its_threshold(score: float | None, passed: bool) -> None:
    """60.698 % passes and 60.697 % does not, nor does a run without a score."""
    figures = LengthFigures(range(NUM_GPQA), [9] * NUM_GPQA)
    assert decide(TEST07, figures, score, [], "").passed is passed


def test_the_text_of_test09_has_the_official_figures() -> None:
    """Lengths 1,200 and 1,300 alternate: mean 1,250.00, deviation 50.00; the last line is the verdict."""
    figures = LengthFigures(range(6396), [1200, 1300] * 3198)
    text = output_length_text(decide(TEST09, figures, None, [], ""), figures)
    assert text.splitlines()[2:] == [
        "Total samples: 6396",
        "Mean output tokens: 1250.00",
        "Min output tokens: 1200",
        "Max output tokens: 1300",
        "Std deviation: 50.00",
        "Min threshold: 1150.38",
        "Max threshold: 1406.02",
        "Min check pass: True",
        "Max check pass: True",
        "",
        "TEST PASS",
    ]


@pytest.mark.parametrize(("total", "bound"), [(57_519, "Min"), (70_301, "Max")])
def test_a_mean_at_a_bound_passes_its_line(total: int, bound: str) -> None:
    """57,519 tokens of 50 answers are 1150.38 in the mean, and 70,301 are 1406.02."""
    figures = LengthFigures(range(50), [total // 50 + (row < total % 50) for row in range(50)])
    text = output_length_text(decide(TEST09, figures, None, [], ""), figures)
    assert "\nMin check pass: True\nMax check pass: True\n" in text
    assert f"{bound} threshold: {figures.mean:.2f}" in text


def test_the_text_of_a_failed_test_has_its_reasons() -> None:
    """A log without answers: no length is longest, the mean is below its bound, each reason is a line."""
    figures = LengthFigures([], [])
    text = output_length_text(decide(TEST09, figures, None, [], ""), figures)
    assert text.splitlines()[2:6] == [
        *("Total samples: 0", "Mean output tokens: 0.00", "Min output tokens: 0", "Max output tokens: 0"),
    ]
    assert text.endswith(
        "\nMin check pass: False\nMax check pass: True\n"
        "Not passed: 6396 of 6396 samples are missing, first sample 0\n"
        "Not passed: the mean answer length is 0.000, not in 1150.38 to 1406.02\n\nTEST FAIL\n"
    )


@pytest.mark.parametrize(
    ("score", "shown", "passed"), [(60.698, "60.698", True), (60.69749, "60.697", False)]
)
def test_the_text_of_test07_has_the_score(score: float, shown: str, passed: bool) -> None:
    """What scoring has printed, then the score and the threshold, which it may equal."""
    verdict = decide(TEST07, LengthFigures(range(NUM_GPQA), [9] * NUM_GPQA), score, [], "")
    reasons = [] if passed else ["Not passed: the score is 60.697, not in 60.698 to 100.0"]
    assert accuracy_text(verdict, "one\ntwo\n").split("\n") == [
        *("one", "two", "", "TEST07: score of the answers", "", f"Accuracy score: {shown}"),
        *("Accuracy threshold: 60.698", f"Accuracy check pass: {passed}", *reasons, ""),
        "TEST PASS" if passed else "TEST FAIL",
        "",
    ]
    ungraded = decide(TEST07, LengthFigures(range(NUM_GPQA), [9] * NUM_GPQA), None, [], "")
    text = "Accuracy score: none\nNot passed: there is no score\n\nTEST FAIL\n"
    assert text == accuracy_text(ungraded, "one\n")


def gpqa_run(directory: Path, num_right: int, outcome: str = "NOT_GRADED", num_logged: int = 990) -> Path:
    """Write a run of TEST07 whose first answers are right, its data and a tokenizer."""
    run_dir = directory / "TEST07"
    (directory / "tokenizer").mkdir()
    run_dir.mkdir()
    write_tokenizer(directory / "tokenizer")
    columns = {"dataset": ["gpqa_diamond"] * NUM_GPQA, "ground_truth": ["B"] * NUM_GPQA}
    pq.write_table(pa.table(columns), directory / "data.parquet")
    (run_dir / "run.json").write_text(json.dumps({"verdict": {"outcome": outcome, "reason": "why"}}))
    answers = [encode(CHANNEL, "final", MESSAGE, letter, RETURN) for letter in "BC"]
    lines = [
        accuracy_line(row, answers[row >= num_right].tobytes().hex().upper(), 8) for row in range(num_logged)
    ]
    name = "mlperf_log_accuracy.json" if outcome != "INVALID" else "rejected_mlperf_log_accuracy.json"
    (run_dir / name).write_text("[\n" + ",\n".join(lines) + "\n]\n")
    return run_dir


def judge(run_dir: Path) -> int:
    """Run the command with data and tokenizer; returns the exit code."""
    data, tokenizer = run_dir.parent / "data.parquet", run_dir.parent / "tokenizer"
    return main([str(run_dir), f"--reference-data={data}", f"--tokenizer={tokenizer}"])


@pytest.mark.parametrize(
    "num_right, code, score, end",
    # 601 of 990 is 60.707 %, 600 is 60.606 %.
    [(601, 0, "60.707", "TEST PASS"), (600, 3, "60.606", "TEST FAIL")],
)
def test_the_command_scores_test07(tmp_path: Path, num_right: int, code: int, score: str, end: str) -> None:
    """The files for the checker have the score and the verdict; accuracy.json has test and target."""
    run_dir = gpqa_run(tmp_path, num_right)
    assert judge(run_dir) == code
    lines = (run_dir / "verify_accuracy.txt").read_text().splitlines()
    assert f"'exact_match': {score}" in lines
    assert lines[-1] == end
    assert lines.count("TEST PASS") == (code == 0)
    assert (run_dir / "accuracy.txt").read_text().splitlines()[-1] == f"'exact_match': {score}"
    report = json.loads((run_dir / "accuracy.json").read_text())
    assert (report["target_percent"], report["passed"]) == (60.698, code == 0)
    verdict = json.loads((run_dir / "compliance.json").read_text())
    assert (verdict["test"], verdict["passed"], verdict["value"]) == ("TEST07", code == 0, float(score))
    assert (verdict["bounds"], verdict["num_samples"], verdict["num_expected"]) == ([60.698, 100], 990, 990)


def test_a_run_may_be_judged_again(tmp_path: Path) -> None:
    """The log has the SHA-256 that run.json names: both calls decide, and the second replaces the files."""
    run_dir = gpqa_run(tmp_path, 601)
    log = run_dir / "mlperf_log_accuracy.json"
    record = json.loads((run_dir / "run.json").read_text())
    record["files_sha256"] = {log.name: hashlib.sha256(log.read_bytes()).hexdigest()}
    (run_dir / "run.json").write_text(json.dumps(record))
    assert [0, 0] == [judge(run_dir), judge(run_dir)]


def test_the_command_decides_test09(tmp_path: Path) -> None:
    """6,396 answers of 2 tokens: the text has their mean, compliance.json the value; the test fails."""
    run_dir = tmp_path / "TEST09"
    run_dir.mkdir()
    (run_dir / "run.json").write_text(json.dumps({"verdict": {"outcome": "INVALID", "reason": "short"}}))
    rows = ",\n".join(accuracy_line(row, "0100000002000000", 2) for row in range(6396))
    (run_dir / "mlperf_log_accuracy.json").write_text(f"[\n{rows}\n]\n")
    assert 3 == main([str(run_dir)])
    text = (run_dir / "verify_output_len.txt").read_text()
    assert "\nMean output tokens: 2.00\n" in text
    assert text.endswith("\nTEST FAIL\n")
    verdict = json.loads((run_dir / "compliance.json").read_text())
    assert (False, 2.0, 6396) == (verdict["passed"], verdict["value"], verdict["num_samples"])
    assert not (run_dir / "verify_accuracy.txt").exists()


def test_an_invalid_run_passes_no_test(tmp_path: Path) -> None:
    """All answers are right, but the run is INVALID: exit 3, and no accuracy.txt."""
    run_dir = gpqa_run(tmp_path, NUM_GPQA, outcome="INVALID")
    assert judge(run_dir) == 3
    assert json.loads((run_dir / "compliance.json").read_text())["reasons"] == ["the run is INVALID: why"]
    assert "TEST PASS" not in (run_dir / "verify_accuracy.txt").read_text()
    assert not (run_dir / "accuracy.txt").exists()


def test_a_log_with_a_sample_missing_is_not_scored(tmp_path: Path) -> None:
    """989 of 990 samples: the official score would be 100 %, the test does not pass."""
    run_dir = gpqa_run(tmp_path, NUM_GPQA, num_logged=989)
    assert judge(run_dir) == 3
    verdict = json.loads((run_dir / "compliance.json").read_text())
    assert verdict["value"] is None
    assert verdict["reasons"] == ["1 of 990 samples are missing, first sample 989", "there is no score"]
    assert (run_dir / "verify_accuracy.txt").read_text().splitlines()[-1] == "TEST FAIL"


def test_bad_input_is_one_line_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another directory, a run without a record, one that failed, a missing flag, a log cut short: exit 2."""
    run_dir = gpqa_run(tmp_path, NUM_GPQA)
    (tmp_path / "TEST09").mkdir()
    cases = [
        ([str(tmp_path)], "is not named TEST07 or TEST09"),
        ([str(tmp_path / "TEST09")], "TEST09/run.json: No such file"),
        ([str(run_dir)], "--reference-data: is missing; TEST07"),
        ([str(run_dir), f"--reference-data={tmp_path / 'data.parquet'}"], "--tokenizer: is missing; TEST07"),
        ([str(run_dir), f"--tokenizer={tmp_path / 'tokenizer'}"], "--reference-data: is missing; TEST07"),
    ]
    for argv, reason in cases:
        assert main(argv) == 2
        seen = capsys.readouterr().err
        assert reason in seen
        assert seen.count("\n") == 1
    log = run_dir / "mlperf_log_accuracy.json"
    log.write_text(log.read_text()[:5000])
    assert judge(run_dir) == 2
    assert f"RUN_DIR {run_dir}: mlperf_log_accuracy.json" in capsys.readouterr().err
    (run_dir / "run.json").write_text('{"verdict": {"outcome": "FAILED", "reason": "no worker"}}')
    assert judge(run_dir) == 2
    assert "the run is FAILED: no worker" in capsys.readouterr().err
    assert {path.name for path in run_dir.iterdir()} == {"run.json", log.name}


def test_a_log_that_was_changed_after_its_run_decides_no_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """run.json has the SHA-256 of the log: one line, exit code 2, and no verdict is written."""
    run_dir = tmp_path / "TEST09"
    run_dir.mkdir()
    (run_dir / "mlperf_log_accuracy.json").write_text(f"[\n{accuracy_line(0, '01000000' * 1278, 1278)}\n]\n")
    record = {"verdict": {"outcome": "VALID"}, "files_sha256": {"mlperf_log_accuracy.json": "0" * 64}}
    (run_dir / "run.json").write_text(json.dumps(record))
    assert 2 == main([str(run_dir)])
    line = capsys.readouterr().err
    assert "mlperf_log_accuracy.json is not the log of the run: run.json names another SHA-256" in line
    assert not (run_dir / "compliance.json").exists()
