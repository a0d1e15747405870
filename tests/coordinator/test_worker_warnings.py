"""What a worker warns of reaches the person at the coordinator: doctor, run, run.json and verdict."""

from pathlib import Path
from typing import Any

import pytest

from coordinator.__main__ import main
from coordinator.transport.agreement import worker_warnings
from protos import worker_pb2 as pb
from tests import fleet
from tests.forked import end_of

# With fewer than 64 sequences no group has two prompts.
GROUPED = ("--max-num-seqs", "63", "--prefill-group-tokens", "100")
WARNING = "--prefill-group-tokens 100: no effect: with 63 sequences each prompt is a group"


def check_of(record: Any) -> tuple[bool, bool, str]:
    """Return whether the check passed, whether it warns, and what it has seen."""
    (check,) = [check for check in record["verdict"]["checks"] if check["name"] == "worker_warnings"]
    return check["passed"], check["warning"], check["seen"]


def test_a_run_and_the_doctor_show_what_a_worker_warns_of(tmp_path: Path) -> None:
    """One of two workers warns: it is named, and the run is complete."""
    data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(8))
    first, second = (
        fleet.start_worker(tmp_path / f"{name}.log", *flags) for name, flags in (("a", GROUPED), ("b", ()))
    )
    try:
        for worker in (first, second):
            fleet.wait_serving(worker)
        argv = fleet.coordinator_flags([first, second], data, tmp_path / "out", "--accuracy")
        checked = end_of(main, ["doctor", *argv], tmp_path)
        ended = end_of(main, argv, tmp_path)
    finally:
        for worker in (first, second):
            worker.stop()
    seen = f"{first.address}: {WARNING}"
    (row,) = [line for line in checked.stdout.splitlines() if WARNING in line]
    assert ["warn", "warnings", *seen.split()] == row.split()
    assert 0 == ended.code, ended.stderr
    told = [line for line in ended.stderr.splitlines() if line.endswith(f"fleet: {seen}")]
    assert [True] == [" WARNING " in line for line in told]
    record = fleet.run_json(tmp_path / "out" / "offline" / "accuracy")
    assert (True, True, seen) == check_of(record)
    assert [[WARNING], None] == [row["info"].get("warnings") for row in record["summary"]["workers"]]


@pytest.mark.parametrize(("num_seqs", "is_told"), [("64", True), ("63", False)])
def test_a_run_with_a_limit_of_ttft_says_that_prompts_are_held(
    num_seqs: str, is_told: bool, tmp_path: Path
) -> None:
    """The hold is named once before the run; with fewer than 64 sequences no prompt waits for another."""
    data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(4))
    groups = ("--max-num-seqs", num_seqs, "--prefill-group-tokens", "100", "--prefill-hold-ms", "1")
    with fleet.workers(tmp_path, 1, *groups) as started:
        flags = ("--scenario", "server", "--target-qps", "50", "--accuracy")
        argv = fleet.coordinator_flags(started, data, tmp_path / "out", *flags)
        ended = end_of(main, argv, tmp_path)
    assert 0 == ended.code, ended.stderr
    text = "--prefill-group-tokens 100: TTFT includes a hold of up to 1.0 ms (--prefill-hold-ms)"
    told = [line for line in ended.stderr.splitlines() if line.endswith(f"{started[0].address}: {text}")]
    assert [True] * is_told == [" WARNING " in line for line in told]


def test_a_warning_of_several_workers_is_one_line() -> None:
    """Its workers are counted once each, whatever the number of their streams; a long text is cut."""
    same, other = pb.WorkerInfo(warnings=["slow"]), pb.WorkerInfo(warnings=["slow", "x" * 400])
    lines = worker_warnings([("a:1", same), ("a:1", same), ("b:2", other), ("c:3", pb.WorkerInfo())])
    assert "2 workers, first a:1: slow" == lines[0]
    assert (2, True) == (len(lines), lines[1].startswith("b:2: xxx") and len(lines[1]) < 320)
