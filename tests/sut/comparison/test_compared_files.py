"""What `tokenfleet report compare` takes from the files beside run.json, and how it counts workers."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from common.flags import FlagError
from sut.loadgen_conf import USER_FLAG, parse_conf
from sut.results.comparison.compare_command import main
from sut.results.comparison.compared_files import read_grading
from sut.settings import Mode, Scenario
from sut.user_conf import compose_user_conf
from tests.sut.comparison.run_files import server_record, write_run

BOUND = "result_completed_samples_per_sec"


def conf_text(target_qps: int) -> str:
    """Compose the user.conf of a Server run, as a run writes it."""
    user = parse_conf(USER_FLAG, f"*.Server.target_qps = {target_qps}\n*.Server.min_duration = 600000\n")
    return compose_user_conf(
        user, scenario=Scenario.SERVER, mode=Mode.PERFORMANCE, num_samples=6396, target_qps=None
    )


def write_conf_run(directory: Path, text: str, **changes: object) -> Path:
    """Write a run with its user.conf."""
    hashes = {"user.conf": hashlib.sha256(text.encode()).hexdigest()}
    write_run(directory, server_record(directory.name, 0, 50.0, files_sha256=hashes, **changes))
    (directory / "user.conf").write_text(text)
    return directory


def output_of(capsys: pytest.CaptureFixture[str], *paths: Path) -> str:
    """Compare and return what is printed."""
    assert main([str(path) for path in paths]) == 0
    return capsys.readouterr().out


def test_runs_with_another_user_conf_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A setting that only the user.conf has is listed, and another rate of the schedule is told."""
    runs = [
        write_conf_run(
            tmp_path / name, conf_text(qps), loadgen_bounds={BOUND: {"name": "target_qps", "value": qps}}
        )
        for name, qps in (("a", 20), ("b", 60))
    ]
    output = output_of(capsys, *runs)
    assert "1 difference of configuration:\n   user.conf.target_qps: A 20; B 60" in output
    assert "different rates, in queries/s: A had 20; B had 60." in " ".join(output.split())


def test_a_missing_user_conf_counts_by_its_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Directories that were copied without their user.conf: equal files are no difference, others are."""
    runs = [write_conf_run(tmp_path / name, conf_text(qps)) for name, qps in (("a", 1), ("b", 1), ("c", 2))]
    for run in runs:
        (run / "user.conf").unlink()
    assert "no difference of configuration" in output_of(capsys, *runs[:2])
    assert "user.conf, SHA-256" in output_of(capsys, *runs[1:])


def test_a_user_conf_of_another_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user.conf that was edited after the run: one line, exit code 2."""
    runs = [write_conf_run(tmp_path / name, conf_text(20)) for name in "ab"]
    (runs[1] / "user.conf").write_text(conf_text(21))
    assert main([str(path) for path in runs]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "b/user.conf: is not the file of the run: its SHA-256 differs from run.json" in line


def test_one_worker_that_differs_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three workers with 512 sequences and one with 64 are not one with 512 and three with 64."""
    runs = []
    for name, limits in (("a", ("512", "512", "512", "64")), ("b", ("512", "64", "64", "64"))):
        workers = [{"stream_infos": [{"execution_facts": {"max_num_seqs": limit}}]} for limit in limits]
        summary = {"answer_tokens": {"count": 1, "mean": 9.0}, "workers": workers}
        runs.append(write_run(tmp_path / name, server_record(name, 0, 50.0, summary=summary)))
    expected = "worker.execution_facts.max_num_seqs: A 3 x 512, 1 x 64; B 1 x 512, 3 x 64"
    assert expected in output_of(capsys, *runs)


def scored_run(directory: Path, score: object, log_sha256: str = "a1", **conditions: object) -> Path:
    """Write an accuracy run that was graded."""
    hashes = {"mlperf_log_accuracy.json": "a1"}
    record: dict[str, Any] = server_record(
        directory.name, 0, 50.0, mode="accuracy", scenario="offline", files_sha256=hashes
    )
    write_run(directory, record)
    report = {"score_percent": score, "log_sha256": log_sha256, **conditions}
    (directory / "accuracy.json").write_text(json.dumps(report))
    return directory


def test_the_scores_of_accuracy_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A faster run with a lower score shows the score; that of another log is refused."""
    a, b = scored_run(tmp_path / "a", 84.0), scored_run(tmp_path / "b", 42.0)
    (row,) = [line for line in output_of(capsys, a, b).splitlines() if "accuracy score" in line]
    assert ["accuracy", "score,", "%", "84", "42", "0.5000"] == row.split()
    assert main([str(a), str(scored_run(tmp_path / "c", 85.0, "b2"))]) == 2
    assert "c/accuracy.json: is the score of another accuracy log" in capsys.readouterr().err


@pytest.mark.parametrize("score", [-5, 100.5, 10**30, float("nan"), float("inf"), True, "84"])
def test_an_impossible_score_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], score: object
) -> None:
    """A foreign accuracy.json: one line that names the score and its bounds, exit code 2."""
    runs = [scored_run(tmp_path / "a", 84.0), scored_run(tmp_path / "b", score)]
    assert main([str(path) for path in runs]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"b/accuracy.json: score_percent is {score}, not 0 to 100")


def test_scores_that_were_graded_in_other_ways_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other tests of programs, and a row that could not be graded and so counts as wrong, are told."""
    a = scored_run(tmp_path / "a", 84.0, lcb_tests_sha256="1f", python_version="3.11.7", ungraded=[])
    other = {"lcb_tests_sha256": "2e", "python_version": "3.11.7", "ungraded": [{"sample_index": 3}]}
    output = output_of(capsys, a, scored_run(tmp_path / "b", 83.0, **other))
    assert "accuracy.json.lcb_tests_sha256: A 1f; B 2e\n" in output
    assert "accuracy.json.num_ungraded: A 0; B 1\n" in output
    assert "python_version" not in output


def test_sides_with_the_same_mixture_of_runs_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs at one rate and one at the other are not one and two."""
    for side, rates in (("a", (20, 20, 60)), ("b", (20, 60, 60))):
        for k, rate in enumerate(rates):
            directory = tmp_path / side / str(k)
            write_run(directory, server_record(f"{side}{k}", k, 50.0, config={"target_qps": rate}))
    output = output_of(capsys, tmp_path / "a", tmp_path / "b")
    assert "config.target_qps: A 2 x 20 | 1 x 60; B 1 x 20 | 2 x 60" in output


def test_a_figure_that_some_runs_do_not_have_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LoadGen gave one run of B no rate: tokens/s is left out and named; what no run has is not."""
    for k in range(2):
        write_run(tmp_path / "a" / str(k), server_record(f"a{k}", 2 * k, 50.0))
        changes = {} if k else {"loadgen": {"result_completed_samples_per_sec": 20.5}}
        write_run(tmp_path / "b" / str(k), server_record(f"b{k}", 2 * k + 1, 50.0, **changes))
    output = output_of(capsys, tmp_path / "a", tmp_path / "b")
    assert "tokens/s is left out: only 2 of 2 runs of A, 1 of 2 runs of B have it." in output
    assert "accuracy score" not in output
    assert "before the tail is left out" not in output


def test_a_figure_that_one_side_does_not_have_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LoadGen gave no run of B a rate: the figure is not missing in silence."""
    write_run(tmp_path / "a" / "0", server_record("a0", 0, 50.0))
    loadgen = {"result_completed_samples_per_sec": 20.5}
    write_run(tmp_path / "b" / "0", server_record("b0", 1, 50.0, loadgen=loadgen))
    output = output_of(capsys, tmp_path / "a", tmp_path / "b")
    assert "tokens/s is left out: only 1 of 1 runs of A, 0 of 1 runs of B have it." in output


def test_work_is_the_same_however_it_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The order of the keys in a record says nothing."""
    for name, generation in (("a", {"top_p": 1.0, "seed": 7}), ("b", {"seed": 7, "top_p": 1.0})):
        write_run(tmp_path / name / "0", server_record(name, 0, 50.0, generation=generation))
    assert "not of the same work" not in output_of(capsys, tmp_path / "a", tmp_path / "b")


def test_a_check_that_failed_without_a_warning_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One INVALID run of one side: the check that made it so is named."""
    for name, passed in (("a", True), ("b", False)):
        checks = [{"name": "clock", "passed": passed, "warning": False}]
        write_run(
            tmp_path / name / "0",
            server_record(name, 0, 50.0, verdict={"outcome": "VALID", "checks": checks}),
        )
    output = output_of(capsys, tmp_path / "a", tmp_path / "b")
    assert "The check clock failed or warned in 0 of 1 runs of A, 1 of 1 runs of B." in output


def test_schedules_of_different_rates_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A side whose runs have no rate, for example of an older tokenfleet, has none."""
    for k, (name, rate) in enumerate((("a", 20.0), ("a", 20.5), ("b", None))):
        bounds = {"result_completed_samples_per_sec": {"name": "target_qps", "value": rate}}
        write_run(tmp_path / name / str(k), server_record(f"{name}{k}", k, 50.0, loadgen_bounds=bounds))
    output = output_of(capsys, tmp_path / "a", tmp_path / "b")
    assert "LoadGen's schedules had different rates, in queries/s: A had 20, 20.5; B had none." in output


@pytest.mark.parametrize(
    "name", ["reference_sha256", "tokenizer_sha256", "lcb_tests_sha256", "python_version", "ungraded"]
)
def test_each_condition_of_a_score_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Scores are not comparable if the data, the tokenizer, the tests or the Python differ."""
    for side, value in (("a", ["x"]), ("b", ["y", "z"])):
        run = write_run(tmp_path / side, server_record(side, 0, 50.0))
        told = value if name == "ungraded" else value[0]
        (run / "accuracy.json").write_text(json.dumps({"score_percent": 100.0, name: told}))
    shown = "num_ungraded: A 1; B 2" if name == "ungraded" else f"{name}: A x; B y"
    assert f"accuracy.json.{shown}" in output_of(capsys, tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(("score", "accepted"), [(0, True), (100, True), (-0.001, False), (100.001, False)])
def test_a_score_is_between_0_and_100(tmp_path: Path, score: float, accepted: bool) -> None:
    """Both ends are scores; a report without a score has none."""
    (tmp_path / "accuracy.json").write_text(json.dumps({"score_percent": score}))
    if accepted:
        assert score == read_grading(tmp_path, {}, "RUNS").score_percent
    else:
        with pytest.raises(FlagError, match=f"score_percent is {score}, not 0 to 100"):
            read_grading(tmp_path, {}, "RUNS")
    (tmp_path / "accuracy.json").write_text(json.dumps({"score_percent": None}))
    assert read_grading(tmp_path, {}, "RUNS").score_percent is None


def test_the_audit_configs_of_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the user.confs are."""
    for side, value in (("a", 990), ("b", 991)):
        run = write_run(tmp_path / side, server_record(side, 0, 50.0))
        (run / "audit.config").write_text(f"*.*.accuracy_log_sampling_target = {value}\n")
    output = output_of(capsys, tmp_path / "a", tmp_path / "b")
    assert "audit.config.accuracy_log_sampling_target: A 990; B 991" in output
