"""What the directories and records of finished runs tell."""

import json
from pathlib import Path

import pytest

from common.flags import FlagError
from sut.results.submission.recorded_runs import Fault, RecordedRun, RunKind, all_runs, find_runs
from tests.sut.handmade_logs import OFFLINE, SERVER


def run_of(record: dict[str, object], kind: RunKind = RunKind.PERFORMANCE) -> RecordedRun:
    """Make a run of Offline."""
    return RecordedRun(Path("run"), OFFLINE, kind, record)


def with_workers(*workers: dict[str, object]) -> RecordedRun:
    """Make a run of workers."""
    return run_of({"summary": {"workers": list(workers)}})


def write_run(results: Path, scenario: str, kind: str) -> Path:
    """Write a run.json that names its place."""
    directory = results / scenario / kind
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps({"place": f"{scenario}/{kind}"}))
    return results


def test_runs_are_found_by_their_directories(tmp_path: Path) -> None:
    """In several results directories, in the order of scenarios and kinds; others are left alone."""
    first = write_run(tmp_path / "first", "server", "TEST09")
    write_run(first, "offline", "accuracy")
    write_run(first, "offline", "warm-up")
    second = write_run(tmp_path / "second", "offline", "performance")
    runs = find_runs([first, second])
    names = ["offline/performance", "offline/accuracy", "server/TEST09"]
    assert names == [run.name for run in all_runs(runs)]
    assert [["performance", "accuracy"], ["TEST09"]] == [list(runs[scenario]) for scenario in runs]
    assert {OFFLINE: 2, SERVER: 1} == {scenario: len(runs[scenario]) for scenario in runs}
    for run in all_runs(runs):
        assert run.name == run.text("place")
        assert run.directory in (first / run.name, second / run.name)


def test_a_run_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Which of the two is meant is not known: the line names both places."""
    first = write_run(tmp_path / "first", "offline", "performance")
    second = write_run(tmp_path / "second", "offline", "performance")
    with pytest.raises(FlagError) as refused:
        find_runs([first, second])
    reason = f"holds offline/performance, and so does {first / 'offline/performance'}"
    assert f"--results {second}: {reason}" == str(refused.value)


@pytest.mark.parametrize(
    ("kind", "num_samples", "expected"),
    [
        (RunKind.ACCURACY, 6396, 4395),
        (RunKind.ACCURACY, 50, 50),
        (RunKind.TEST07, 990, 990),
        (RunKind.TEST09, 6396, 6396),
        (RunKind.ACCURACY, None, 0),
    ],
)
def test_the_answers_of_a_log_are_those_of_its_kind(
    kind: RunKind, num_samples: int | None, expected: int
) -> None:
    """An accuracy run has at most 4,395; a record without the number has none."""
    assert expected == run_of({"dataset": {"num_samples": num_samples}}, kind).num_answers


def test_only_scores_and_compliance_tests_are_of_their_kinds() -> None:
    """TEST07 is both graded and a test, TEST09 only a test, an accuracy run only graded."""
    assert ["accuracy", "TEST07"] == [str(kind) for kind in RunKind if kind.is_graded]
    tests = {str(kind): kind.compliance_test.name for kind in RunKind if kind.compliance_test}
    assert {"TEST07": "TEST07", "TEST09": "TEST09"} == tests


def test_entries_of_another_type_are_missing() -> None:
    """A record may be from anyone: what is no text is no text, and lists keep their texts."""
    run = run_of({"a": {"text": "x", "number": 3, "list": ["x", 3, None, "y"], "huge": 10**400}})
    assert ("x", "", "") == (run.text("a", "text"), run.text("a", "number"), run.text("b"))
    assert (["x", "y"], []) == (run.texts("a", "list"), run.texts("a", "text"))
    assert (3.0, None, None) == (run.number("a", "number"), run.number("a", "text"), run.number("a", "huge"))


def test_engines_are_named_once_in_order() -> None:
    """Of all workers and streams."""
    old, new = ({"engine": "vllm", "engine_version": version} for version in ("0.25.1", "0.32.0"))
    run = with_workers({"stream_infos": [new, old]}, {"stream_infos": [old]})
    assert ["vllm 0.25.1", "vllm 0.32.0"] == run.engines


def test_the_latest_answer_of_a_worker_is_its_machine() -> None:
    """An answer without a host name is none; the other nodes of an engine belong to it."""
    early, late, other = ({"hostname": name} for name in ("early", "late", "other"))
    run = with_workers(
        {"address": "a:1", "hosts": [early, late | {"engine_hosts": [other]}, {"hostname": ""}]},
        {"address": "a:2", "hosts": []},
        {"address": "b:1"},
    )
    assert ["late"] == [host["hostname"] for host in run.host_answers]
    assert ["late", "other"] == [host["hostname"] for host in run.worker_hosts]


def test_workers_share_a_machine_of_one_address_and_host_name() -> None:
    """Ports do not matter; machines of one image have one name, and engines span machines of one address."""

    def worker(address: str, name: str, number: int, *others: str) -> dict[str, object]:
        more = [{"hostname": other, "number": number} for other in others]
        return {
            "address": address,
            "hosts": [{"hostname": name, "number": number, "engine_hosts": more}],
        }

    run = with_workers(
        worker("[::1]:1", "image", 1),
        worker("[::1]:2", "image", 2),
        worker("b:1", "image", 3),
        worker("b:2", "image", 4, "second"),
        worker("b:3", "image", 5, "second"),
    )
    assert [[1, 2], [3, 4, 5], [4, 5]] == [[part["number"] for part in machine] for machine in run.machines]


def test_a_place_without_runs_is_refused(tmp_path: Path) -> None:
    """A file, an absent directory, and directories in which no run.json has its place."""
    (tmp_path / "file").touch()
    for name in ("file", "absent"):
        with pytest.raises(FlagError) as refused:
            find_runs([tmp_path / name])
        assert f"--results {tmp_path / name}: is not a directory" == str(refused.value)
    places = [write_run(tmp_path / name, "offline", "warm-up") for name in ("first", "second")]
    with pytest.raises(FlagError) as refused:
        find_runs(places)
    reason = f"no <scenario>/<performance|accuracy|TESTnn>/run.json in {places[0]}, {places[1]}"
    assert f"--results: {reason}" == str(refused.value)


def test_a_fault_is_a_line() -> None:
    """Where it is, and why it is one."""
    assert "all runs: the engine differs" == str(Fault("all runs", "the engine differs"))
