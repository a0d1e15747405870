"""What the runs of a submission must have in common, on records that were made by hand."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from sut.results.submission.recorded_runs import Division, RecordedRun, RunKind
from sut.results.submission.set_faults import commits_of, kernel_choices, set_faults, set_of_machines
from sut.settings import Scenario
from tests.sut.handmade_logs import INTERACTIVE, OFFLINE, SERVER

PERFORMANCE, ACCURACY, TEST07, TEST09 = RunKind
ADDRESS = "a:1"
Change = dict[tuple[Scenario, RunKind], dict[str, Any]]


def record_of(number: int, kind: RunKind) -> dict[str, Any]:
    """Make the record of the run with this number, which begins 1,000 s after the one before it."""
    data = {PERFORMANCE: "p", TEST09: "p", ACCURACY: "a", TEST07: "g"}[kind]
    engine = {
        "engine": "vllm",
        "engine_version": "0.32.0",
        "engine_hash": "e",
        "model_hash": "m",
        "weights_sha256": "w",
        "execution_facts": {"moe_backend": '"triton"', "max_num_seqs": "64"},
    }
    host = {
        "hostname": "one",
        "commit": "c",
        "num_cores": 64,
        "accelerators": [{"name": "H200", "num_devices": 8}],
    }
    return {
        "summary": {"workers": [{"address": ADDRESS, "stream_infos": [engine], "hosts": [host]}]},
        "versions": {"mlcommons_loadgen": "6.0.17", "commit": "c"},
        "dataset": {"sha256": data},
        "generation": {"max_new_tokens": 32_768 if kind is ACCURACY else 10_240, "seed": 1},
        "started_utc": f"2026-12-01T{number:02}:00:00+00:00",
        "ready_s": 0.0,
        "wall_s": 600.0,
    }


def faults_of(
    change: Change | None = None,
    division: Division = Division.CLOSED,
    scenarios: tuple[Scenario, ...] = (OFFLINE, SERVER),
    kinds: tuple[RunKind, ...] = tuple(RunKind),
) -> list[str]:
    """List the faults of a submission, with further entries in some records."""
    runs: dict[Scenario, dict[RunKind, RecordedRun]] = {}
    for at, (scenario, kind) in enumerate((scenario, kind) for scenario in scenarios for kind in kinds):
        record = copy.deepcopy(record_of(at, kind)) | (change or {}).get((scenario, kind), {})
        run = RecordedRun(Path(f"/nowhere/{scenario}/{kind}"), scenario, kind, record)
        runs.setdefault(scenario, {})[kind] = run
    return [str(fault) for fault in set_faults(runs, division)]


def engine_with(**changed: object) -> dict[str, Any]:
    """Return a record's entry of workers whose engine differs."""
    summary = record_of(0, PERFORMANCE)["summary"]
    summary["workers"][0]["stream_infos"][0].update(changed)
    return {"summary": summary}


def host_with(**changed: object) -> dict[str, Any]:
    """Return a record's entry of workers whose machine differs."""
    summary = record_of(0, PERFORMANCE)["summary"]
    summary["workers"][0]["hosts"][0].update(changed)
    return {"summary": summary}


def test_runs_that_have_all_in_common_have_no_faults() -> None:
    """In each division; sampling may differ in accuracy runs alone."""
    assert [] == faults_of()
    assert [] == faults_of(division=Division.NETWORK)
    assert [] == faults_of(division=Division.OPEN, scenarios=(SERVER,), kinds=(PERFORMANCE, ACCURACY))


@pytest.mark.parametrize("division", [Division.CLOSED, Division.NETWORK])
def test_scenarios_and_runs_that_a_division_requires_are_named(division: Division) -> None:
    """Offline and one of the others, each with both compliance tests."""
    offline = "offline: no run of this scenario, which is required"
    other = "server or interactive: no run of either scenario, one is required"
    assert [offline] == faults_of(division=division, scenarios=(SERVER,))
    assert [other] == faults_of(division=division, scenarios=(OFFLINE,))
    assert [] == faults_of(division=division, scenarios=(OFFLINE, INTERACTIVE))
    missing = [
        f"{scenario}/{kind}: the run is missing"
        for scenario in (OFFLINE, SERVER)
        for kind in (TEST07, TEST09)
    ]
    assert missing == faults_of(division=division, kinds=(PERFORMANCE, ACCURACY))


def test_the_open_division_requires_an_accuracy_run() -> None:
    """And a performance run, and no scenario."""
    for kind, other in ((PERFORMANCE, ACCURACY), (ACCURACY, PERFORMANCE)):
        reason = f"server/{other}: the run is missing"
        assert [reason] == faults_of(division=Division.OPEN, scenarios=(SERVER,), kinds=(kind,))


@pytest.mark.parametrize(
    ("changed", "name", "shown"),
    [
        (engine_with(engine_hash="f"), "engine hash", "e in server/performance, f"),
        (
            engine_with(execution_facts={"moe_backend": '"marlin"', "max_num_seqs": "8"}),
            "moe_backend",
            '"triton" in server/performance, "marlin"',
        ),
        *(
            (
                engine_with(execution_facts={"moe_backend": '"triton"', name: "1"}),
                name,
                "the default in server/performance, 1",
            )
            for name in (
                *("device", "kernel_config", "ir_op_priority", "enable_expert_parallel", "ep_size"),
                *("VLLM_MXFP4", "SGLANG_FP8", "triton_version", "attention_backend"),
            )
        ),
    ],
)
def test_the_runs_of_a_scenario_have_one_engine_and_one_choice_of_kernels(
    changed: dict[str, Any], name: str, shown: str
) -> None:
    """Batch limits may differ; so may both between the scenarios."""
    reason = f"server: the {name} differs: {shown} in server/accuracy"
    assert [reason] == faults_of({(SERVER, ACCURACY): changed})
    assert [] == faults_of({(SERVER, kind): changed for kind in RunKind})


def test_a_run_with_two_engines_is_named() -> None:
    """Its own workers differ."""
    summary = engine_with()["summary"]
    other = copy.deepcopy(summary["workers"][0])
    other["stream_infos"][0]["engine_hash"] = "f"
    summary["workers"].append(other)
    reason = "server/TEST07: the engine hash is not one: e and f"
    assert reason in faults_of({(SERVER, TEST07): {"summary": summary}})


@pytest.mark.parametrize("kind", [TEST07, TEST09])
def test_compliance_runs_sample_as_the_performance_run(kind: RunKind) -> None:
    """The order of the keys says nothing; accuracy runs sample alike in all scenarios."""
    same = {"generation": {"seed": 1, "max_new_tokens": 10_240}}
    assert [] == faults_of({(SERVER, kind): same})
    other = {"generation": {"seed": 2, "max_new_tokens": 10_240}}
    shown = '{"max_new_tokens": 10240, "seed": 1} in server/performance, {"max_new_tokens": 10240, "seed": 2}'
    assert [f"server: the sampling differs: {shown} in server/{kind}"] == faults_of({(SERVER, kind): other})
    accuracy = {"generation": {"max_new_tokens": 5, "seed": 1}}
    shown = '{"max_new_tokens": 32768, "seed": 1} in offline/accuracy, {"max_new_tokens": 5, "seed": 1}'
    expected = [f"accuracy runs: the sampling differs: {shown} in server/accuracy"]
    assert expected == faults_of({(SERVER, ACCURACY): accuracy})


@pytest.mark.parametrize(
    ("changed", "name", "shown"),
    [
        (engine_with(model_hash="n"), "model hash", "m in offline/performance, n"),
        (engine_with(weights_sha256="v"), "SHA-256 of the weights", "w in offline/performance, v"),
        (engine_with(engine="sglang"), "engine", "vllm in offline/performance, sglang"),
        (engine_with(engine_version="0.1"), "engine version", "0.32.0 in offline/performance, 0.1"),
        (
            {"versions": {"mlcommons_loadgen": "6.0.16", "commit": "c"}},
            "LoadGen version",
            "6.0.17 in offline/performance, 6.0.16",
        ),
        (
            host_with(num_cores=32),
            "set of machines",
            '64 cores, 8 x {"name": "H200"} in offline/performance, 32 cores, 8 x {"name": "H200"}',
        ),
    ],
)
def test_all_runs_have_one_model_one_code_and_one_set_of_machines(
    changed: dict[str, Any], name: str, shown: str
) -> None:
    """The first run that differs from the first one is named."""
    reason = f"all runs: the {name} differs: {shown} in server/performance"
    assert [reason] == faults_of({(SERVER, kind): changed for kind in RunKind})


def test_a_run_without_a_value_is_no_other_one() -> None:
    """An engine that does not tell its weights is not compared."""
    assert [] == faults_of({(SERVER, PERFORMANCE): engine_with(model_hash="", weights_sha256=None)})


def test_one_tokenizer_and_one_file_of_tests_graded_all_runs(tmp_path: Path) -> None:
    """By the reports beside the runs."""
    runs: dict[Scenario, dict[RunKind, RecordedRun]] = {}
    for at, scenario in enumerate((OFFLINE, SERVER)):
        directory = tmp_path / scenario
        directory.mkdir()
        report = {"tokenizer_sha256": f"t{at}", "lcb_tests_sha256": f"l{at}"}
        (directory / "accuracy.json").write_text(json.dumps(report))
        runs[scenario] = {ACCURACY: RecordedRun(directory, scenario, ACCURACY, record_of(at, ACCURACY))}
    found = [str(fault) for fault in set_faults(runs, Division.OPEN)]
    tests = "SHA-256 of the tests of programs"
    assert [
        "offline/performance: the run is missing",
        "server/performance: the run is missing",
        "graded runs: the tokenizer differs: t0 in offline/accuracy, t1 in server/accuracy",
        f"graded runs: the {tests} differs: l0 in offline/accuracy, l1 in server/accuracy",
    ] == found


def test_one_revision_made_all_runs() -> None:
    """Of the coordinator and of the workers."""
    versions = {"versions": {"mlcommons_loadgen": "6.0.17", "commit": "d"}}
    own = "offline/performance: the code revision is not one: d and c"
    assert [own] == faults_of({(OFFLINE, PERFORMANCE): versions})
    later = "server/TEST09: the code revision is not one: c and d"
    assert [later] == faults_of({(SERVER, TEST09): host_with(commit="d")})
    run = RecordedRun(Path("run"), OFFLINE, PERFORMANCE, versions | host_with(commit=""))
    assert ["d"] == commits_of(run)


@pytest.mark.parametrize(
    ("kinds", "where", "first"),
    [
        ((PERFORMANCE, TEST09), "performance and TEST09 runs", "p in offline/performance"),
        ((ACCURACY,), "accuracy runs", "a in offline/accuracy"),
        ((TEST07,), "TEST07 runs", "g in offline/TEST07"),
    ],
)
def test_runs_of_one_purpose_have_one_data_set(kinds: tuple[RunKind, ...], where: str, first: str) -> None:
    """TEST09 has that of the performance runs."""
    for kind in kinds:
        reason = f"{where}: the SHA-256 of the data set differs: {first}, x in server/{kind}"
        assert [reason] == faults_of({(SERVER, kind): {"dataset": {"sha256": "x"}}})


@pytest.mark.parametrize(("start", "overlap"), [("00:09:58", None), ("00:09:57", 3), ("00:01:00", 540)])
def test_two_runs_at_once_on_one_worker_are_named(start: str, overlap: int | None) -> None:
    """The performance run takes 10 minutes from midnight, and 2 s are left to the clocks.

    Workers at other addresses may overlap.
    """
    change = {"started_utc": f"2026-12-01T{start}+00:00"}
    found = faults_of({(OFFLINE, ACCURACY): change})
    reason = (
        f"offline/performance: overlaps offline/accuracy by {overlap} s on the same worker: a clock is wrong"
    )
    assert ([] if overlap is None else [reason]) == found
    moved = engine_with()
    moved["summary"]["workers"][0]["address"] = "b:1"
    assert [] == faults_of({(OFFLINE, ACCURACY): change | moved})
    unknown = {"started_utc": "never"}
    assert [] == faults_of({(OFFLINE, ACCURACY): unknown})


def test_long_values_are_cut() -> None:
    """To 80 characters."""
    changed = engine_with(model_hash="x" * 80), engine_with(model_hash="y" * 81)
    every = dict.fromkeys(RunKind)
    change = {(OFFLINE, kind): changed[0] for kind in every} | {(SERVER, kind): changed[1] for kind in every}
    shown = f"{'x' * 80} in offline/performance, {'y' * 77}... in server/performance"
    assert [f"all runs: the model hash differs: {shown}"] == faults_of(change)


def machines_of(*workers: dict[str, Any]) -> list[str]:
    """Describe the machines of a run of these workers."""
    return set_of_machines(
        RecordedRun(Path("run"), OFFLINE, PERFORMANCE, {"summary": {"workers": list(workers)}})
    )


def test_the_workers_of_a_machine_are_taken_together() -> None:
    """However its accelerators are divided; a worker that did not answer leaves the machines unknown."""

    def worker(address: str, num_devices: object, **host: object) -> dict[str, Any]:
        devices = [{"name": "H200", "num_devices": num_devices}]
        return {
            "address": address,
            "hosts": [{"hostname": "h", "num_cores": 64, "accelerators": devices} | host],
        }

    eight = ['64 cores, 8 x {"name": "H200"}']
    assert eight == machines_of(worker("a:1", 8))
    assert eight == machines_of(worker("a:1", 6), worker("a:2", 2))
    assert ['32/64 cores, 8 x {"name": "H200"}'] == machines_of(
        worker("a:1", 4), worker("a:2", 4, num_cores=32)
    )
    two = ['64 cores, 4 x {"name": "H200"}, 64 cores, 8 x {"name": "H200"}']
    assert two == machines_of(worker("b:1", 8), worker("a:1", 4))
    assert ['64 cores, 0 x {"name": "H200"}'] == machines_of(worker("a:1", None))
    assert [] == machines_of(worker("a:1", 8), {"address": "b:1"})
    assert [] == machines_of()
    assert [] == machines_of(worker("a:1", 8, not_told=["nvml"], accelerators=[]))
    assert eight == machines_of(worker("a:1", 8, not_told=["memory"]))
    assert ["64 cores"] == machines_of(worker("a:1", 8, accelerators=[]))
    assert [] == machines_of(worker("a:1", 8), worker("b:1", 8, not_told=["nvml"], accelerators=[]))
    mixed = [{"name": name, "num_devices": 1} for name in ("H200", "B200")]
    assert ['64 cores, 1 x {"name": "B200"}, 1 x {"name": "H200"}'] == machines_of(
        worker("a:1", 8, accelerators=mixed)
    )


def test_the_choices_of_kernels_are_facts_with_their_values() -> None:
    """An engine without a fact has the default; other facts choose no kernels."""
    engines = [{"moe_backend": "b", "max_num_seqs": "1"}, {"moe_backend": "a", "VLLM_X": "1"}]
    assert {"moe_backend: a, b", "VLLM_X: 1, the default"} == kernel_choices(engines)
    assert frozenset() == kernel_choices([])
