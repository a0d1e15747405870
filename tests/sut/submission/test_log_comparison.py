"""Detail logs of a submission against each other, written by hand."""

from pathlib import Path

import pytest

from sut.results.submission.log_comparison import log_comparison_faults
from sut.results.submission.recorded_runs import Division, RecordedRun, RunKind
from sut.results.submission.set_faults import set_faults
from sut.settings import Scenario
from tests.sut.handmade_logs import OFFLINE, SERVER, write_logs

PERFORMANCE, ACCURACY, TEST07, TEST09 = RunKind
BUILD: dict[str, object] = {"loadgen_version": "6.0.17", "loadgen_file_sha1": "ab"}
# LoadGen writes settings in every run, and results in those that measure performance.
SETTINGS: dict[str, object] = {
    "requested_a": 1,
    "effective_b": 2,
    "generated_c": 3,
    "qsl_d": 4,
    "sut_e": 5,
    "loadgen_f": 6,
}
RESULTS: dict[str, object] = {"result_g": 7, "early_stopping_h": 8}
Logs = dict[tuple[Scenario, RunKind], dict[str, object]]


def faults_of(directory: Path, logs: Logs) -> list[str]:
    """List the faults of runs that have these values in their detail logs."""
    runs: dict[Scenario, dict[RunKind, RecordedRun]] = {}
    for (scenario, kind), values in logs.items():
        place = directory / scenario / kind
        place.mkdir(parents=True, exist_ok=True)
        write_logs(place, values, [], [])
        runs.setdefault(scenario, {})[kind] = RecordedRun(place, scenario, kind, {})
    found = [str(fault) for fault in log_comparison_faults(runs)]
    assert set(found) <= {str(fault) for fault in set_faults(runs, Division.OPEN)}
    return found


def logs_of(*kinds: RunKind) -> Logs:
    """Make whole logs of runs of Offline."""
    return {
        (OFFLINE, kind): BUILD | SETTINGS | ({} if kind is ACCURACY else RESULTS) | {"other": kind}
        for kind in kinds
    }


def test_whole_logs_have_no_faults(tmp_path: Path) -> None:
    """Accuracy runs have no results, an INVALID run alone has a reason, and scenarios have other lines."""
    logs = logs_of(*RunKind)
    logs[OFFLINE, TEST09]["result_invalid_reason"] = "why"
    logs[SERVER, PERFORMANCE] = BUILD | {"effective_x": 1, "result_y": 2}
    assert [] == faults_of(tmp_path, logs)


@pytest.mark.parametrize("key", [*SETTINGS, *RESULTS])
def test_a_line_that_only_one_log_lacks_is_named(tmp_path: Path, key: str) -> None:
    """Of a setting or a result; the first of several is named."""
    logs = logs_of(PERFORMANCE, TEST07, TEST09)
    del logs[OFFLINE, TEST07][key]
    expected = [f"offline/TEST07: the detail log lacks 1 lines that others have, first {key}"]
    assert expected == faults_of(tmp_path, logs)


def test_several_missing_lines_are_counted(tmp_path: Path) -> None:
    """In the order of the other log; an accuracy run is asked for its settings alone."""
    logs = logs_of(PERFORMANCE, ACCURACY)
    for key in ("effective_b", "qsl_d", "other"):
        del logs[OFFLINE, ACCURACY][key]
    expected = ["offline/accuracy: the detail log lacks 2 lines that others have, first effective_b"]
    assert expected == faults_of(tmp_path, logs)


@pytest.mark.parametrize("key", BUILD)
def test_another_build_of_loadgen_is_named(tmp_path: Path, key: str) -> None:
    """Over all scenarios; values are cut to 40 characters."""
    logs = logs_of(PERFORMANCE, ACCURACY) | {(SERVER, PERFORMANCE): BUILD | {key: "x" * 41}}
    reason = f"{BUILD[key]} in offline/performance, {'x' * 40} in server/performance"
    assert [f"all runs: {key} of the detail logs differs: {reason}"] == faults_of(tmp_path, logs)


def test_a_log_that_cannot_be_read_is_left_to_others(tmp_path: Path) -> None:
    """Damaged, or absent: it is named where it is read."""
    logs = logs_of(PERFORMANCE, TEST09)
    runs = {
        OFFLINE: {
            kind: RecordedRun(tmp_path / str(kind), OFFLINE, kind, {})
            for kind in (PERFORMANCE, TEST07, TEST09)
        }
    }
    for kind in (PERFORMANCE, TEST09):
        (tmp_path / str(kind)).mkdir()
        write_logs(tmp_path / str(kind), logs[OFFLINE, kind], [], [])
    (tmp_path / "TEST09" / "mlperf_log_detail.txt").write_text(":::MLLOG {")
    assert [] == log_comparison_faults(runs)
