"""Each fault that is planted in the runs of a submission is named, in one line, and alone."""

import copy
import functools
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sut.benchmark import BENCHMARK
from sut.log_files import ACCURACY
from sut.results.submission.recorded_runs import Division, all_runs, find_runs
from sut.results.submission.run_faults import run_faults
from sut.results.submission.set_faults import set_faults
from tests.sut.submission.fault_table import FAULTS
from tests.sut.submission.planting import PERFORMANCE, Plant, copy_run, entries, record
from tests.sut.submission.small_runs import change_record, change_report


def faults_of(results: Path, division: Division = Division.CLOSED) -> list[str]:
    """Check runs as a submission."""
    runs = find_runs([results])
    found = [fault for run in all_runs(runs) for fault in run_faults(run, division)]
    return [str(fault) for fault in found + set_faults(runs, division)]


@functools.cache
def known_faults(made_runs: Path, division: Division) -> tuple[str, ...]:
    """List the faults of the runs before anything is planted."""
    return tuple(faults_of(made_runs, division))


def planted_faults(results: Path, plant: Plant, division: Division = Division.CLOSED) -> list[str]:
    """List the lines that a planted fault adds; the directory of the runs is left out."""
    known = known_faults((results / "origin").resolve(), division)
    plant(results)
    return [line.replace(f"{results}/", "") for line in faults_of(results, division) if line not in known]


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_alone(results: Path, name: str) -> None:
    """Exactly one line is added, and it names the run and the fault."""
    plant, line = FAULTS[name]
    (found,) = planted_faults(results, plant)
    assert found.startswith(line)


def test_memory_without_ecc_is_named(results: Path) -> None:
    """The rules require ECC; accelerators that do not tell are no fault, nor are those that have it."""
    devices = [{"name": "H200", "ecc": True}, {"name": "H200", "ecc": None}, {"name": "H200", "ecc": False}]
    for shown in (devices[:2], devices):
        found = planted_faults(results, record(PERFORMANCE, functools.partial(set_devices, devices=shown)))
        named = [line for line in found if "ECC" in line]
        assert ([] if shown is not devices else [f"{PERFORMANCE}: ECC is off on n1"]) == named


def test_a_machine_may_be_divided_in_another_way_between_workers(results: Path) -> None:
    """Eight workers with one accelerator each or four with two are one machine; with seven it is another."""
    for run in all_runs(find_runs([results])):
        change_record(run.directory, functools.partial(divide, counts=[1] * 8))
    two, seven = (functools.partial(divide, counts=counts) for counts in ([2] * 4, [1] * 7))
    assert [] == planted_faults(results, record("server/TEST09", two))
    (found,) = planted_faults(results, record("server/TEST09", seven))
    assert found.startswith("all runs: the set of machines differs: ")


def test_machines_of_one_host_name_are_counted_by_their_addresses(results: Path) -> None:
    """Two machines from one image with four accelerators each are not one machine with eight."""
    for run in all_runs(find_runs([results])):
        change_record(run.directory, functools.partial(divide, counts=[4, 4], places=("n1", "n2")))
    one = functools.partial(divide, counts=[4, 4], places=("n3", "n3"))
    (found,) = planted_faults(results, record("server/TEST09", one))
    assert found.startswith("all runs: the set of machines differs: ")


def divide(found: Any, counts: Sequence[int], places: Sequence[str] = ()) -> None:
    """Let as many workers as there are counts have served a run, with so many accelerators.

    Args:
        found: Content of run.json.
        counts: Accelerators of each worker.
        places: Host in the address of each worker, by default one; their machines have one host name.
    """
    summary = found["summary"]
    summary["workers"] = [copy.deepcopy(summary["workers"][0]) for _ in counts]
    for worker, num, place in zip(summary["workers"], counts, places or ["n1"] * len(counts), strict=True):
        worker["address"] = f"{place}:50052"
        device = {"name": "H200", "memory_bytes": 1 << 37, "ecc": True, "num_devices": num}
        worker["hosts"][-1] |= {"hostname": "n1", "accelerators": [device]}


def set_devices(found: Any, devices: list[dict[str, object]]) -> None:
    """Give the machine of a run's worker a name and accelerators."""
    found["summary"]["workers"][0]["hosts"][-1] |= {"hostname": "n1", "accelerators": devices}


def test_real_runs_have_no_other_faults_than_those_of_a_rehearsal(made_runs: Path) -> None:
    """Engine, counts and durations are all that separates the runs from a submission."""
    runs = find_runs([made_runs])
    found = [fault for run in all_runs(runs) for fault in run_faults(run, Division.CLOSED)]
    assert {True} == {fault.is_rule for fault in found}
    assert [] == set_faults(runs, Division.CLOSED)
    engine = "deviation: engine is counting, not vllm: 1 of 1 workers, first "
    others = {str(fault) for fault in found if not fault.reason.startswith(engine)}
    duration = "effective_min_duration_ms"
    assert others == {
        f"{scenario}/performance: {reason}"
        for scenario in ("offline", "server")
        for reason in (
            f"deviation: {duration} is 0, below 600000",
            f"in the detail log {duration} is 0, below 600000",
        )
    }


def test_ecc_is_required_on_every_node_of_an_engine(results: Path) -> None:
    """A machine that serves no port is named as the head's is."""

    def plant(found: Any) -> None:
        other = {"hostname": "n2", "accelerators": [{"name": "H200", "num_devices": 8, "ecc": False}]}
        found["summary"]["workers"][0]["hosts"][-1]["engine_hosts"] = [other]

    assert f"{PERFORMANCE}: ECC is off on n2" in planted_faults(results, record(PERFORMANCE, plant))


def test_a_worker_that_did_not_answer_gethost_is_no_other_machine(results: Path) -> None:
    """Machines are compared as far as they are known."""

    def forget(found: Any) -> None:
        found["summary"]["workers"][0]["hosts"] = [{"hostname": "", "num_cores": 0, "not_told": ["slow"]}]

    assert [] == planted_faults(results, record("server/TEST09", forget))


def test_accuracy_and_performance_swapped_are_both_named(results: Path) -> None:
    """Each of the two runs is named with what its record and its log say it is."""

    def swap(results: Path) -> None:
        (results / PERFORMANCE).rename(results / "other")
        (results / "offline/accuracy").rename(results / PERFORMANCE)
        (results / "other").rename(results / "offline/accuracy")

    found = planted_faults(results, swap)
    assert f"{PERFORMANCE}: run.json is of the run offline/accuracy" in found
    assert f"{PERFORMANCE}: the detail log has effective_test_mode AccuracyOnly, not PerformanceOnly" in found
    assert "offline/accuracy: run.json is of the run offline/performance" in found
    assert "offline/accuracy: the accuracy log lacks 4395 of 4395 samples" in found


def test_server_logs_are_no_interactive_result(results: Path) -> None:
    """Server's limits in an Interactive directory are named, which the official checker accepts."""

    def rename(results: Path) -> None:
        (results / "server").rename(results / "interactive")
        for run_dir in (results / "interactive").iterdir():
            change_record(run_dir, lambda found: found.update(scenario="interactive"))

    found = planted_faults(results, rename)
    name = "interactive/performance: in the detail log requested_server"
    assert f"{name}_ttft_latency is 3000000000 ns, not 2000000000" in found
    assert f"{name}_tpot_latency is 80000000 ns, not 15000000" in found


def test_a_run_copied_to_another_scenario_is_named(results: Path) -> None:
    """Its record and its log say what it is."""
    found = planted_faults(results, copy_run("offline/accuracy", "server/accuracy"))
    assert "server/accuracy: run.json is of the run offline/accuracy" in found
    assert "server/accuracy: the detail log has effective_scenario Offline, not Server" in found


def test_the_open_division_needs_no_compliance_and_no_target(results: Path) -> None:
    """TEST07, TEST09, the second scenario and the deviations are the closed division's."""

    def reduce(results: Path) -> None:
        shutil.rmtree(results / "server")
        for name in ("TEST07", "TEST09"):
            shutil.rmtree(results / "offline" / name)
        # 14.5 of 30, 99 of 198 and 528 of 1055 questions: 641.5 of 1283.
        correct = {"aime25": 116, "gpqa_diamond": 495, "livecodebench_v6": 1584}
        counts = {
            name: {"correct": right, "total": BENCHMARK.accuracy_rows[name]}
            for name, right in correct.items()
        }
        change_report(results / "offline/accuracy/accuracy.json", score_percent=50.0, per_dataset=counts)
        (results / "offline/accuracy/accuracy.txt").write_text("'exact_match': 50.000\n")

    assert [] == planted_faults(results, reduce, Division.OPEN)
    assert not [line for line in faults_of(results, Division.OPEN) if "deviation" in line]
    assert "offline/accuracy: the score 50.000 is below 82.2987" in faults_of(results)


def test_the_network_division_needs_its_name_in_the_log(made_runs: Path) -> None:
    """LoadGen's log names the SUT as one behind a network."""
    assert "offline/performance: sut_name is PyFastSUT, without 'Network SUT'" in faults_of(
        made_runs, Division.NETWORK
    )


def test_the_accuracy_log_may_have_a_test09_sample_twice_in_no_run(results: Path) -> None:
    """A sample that the data set does not have is named in a compliance run."""
    plant = entries(
        "offline/TEST07", lambda lines: [lines[0], lines[1].replace('"qsl_idx" : ', '"qsl_idx" : 9')]
    )
    assert any("which the data set does not have" in line for line in planted_faults(results, plant))
    assert (results / "offline/TEST07" / ACCURACY).exists()
