"""All runs of a search measure one fleet with one version of the code."""

import copy
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from coordinator.doctor.visits import Trouble, Visit
from coordinator.transport.worker_host import WorkerHost
from protos import worker_pb2 as pb
from tests import fleet
from tests.forked import completed_command
from tokenfleet.find_qps.search_conditions import SearchConditions


def visit(max_num_seqs: str = "512", state: int = pb.WORKER_STATE_READY) -> Visit:
    """Make the answers of a worker with one H200."""
    device = pb.Accelerator(name="H200", driver_version="580", memory_bytes=1 << 37)
    host = pb.HostInfo(hostname="node1", commit="c0ffee", num_usable_cores=16, accelerators=[device])
    facts = {"max_num_seqs": max_num_seqs}
    info = pb.WorkerInfo(engine="vllm", engine_hash="aa", pid=7, execution_facts=facts)
    info.state = state  # type: ignore[assignment]  # an int is a value of the enum
    return Visit("node1:50051", info=info, host=host)


def record(*visits: Visit) -> dict[str, Any]:
    """Make the record of a run on this machine over these workers."""
    workers = [
        {
            "stream_infos": [MessageToDict(one.info, preserving_proto_field_name=True)],
            "hosts": [dataclasses.asdict(WorkerHost.of(one.host))],
        }
        for one in visits
        if one.host is not None
    ]
    host = dataclasses.asdict(WorkerHost.of_this_process())
    versions = {"mlcommons_loadgen": "6.0.17"}
    content = {"host": host, "versions": versions, "spec_hash": "s", "summary": {"workers": workers}}
    written: dict[str, Any] = json.loads(json.dumps(content))
    return written


def difference(first: dict[str, Any], other: SearchConditions | None) -> str | None:
    """Compare a record with other conditions."""
    assert other is not None
    return SearchConditions.of_record(first).first_difference(other)


def test_the_same_fleet_has_no_difference() -> None:
    """Another process, another start and another machine of the same kind are the same fleet."""
    first = record(visit(), visit())
    again = copy.deepcopy(first)
    for worker in again["summary"]["workers"]:
        worker["stream_infos"][0] |= {"pid": 8, "instance_id": "other"}
        worker["hosts"][0]["hostname"] = "node2"
    assert difference(first, SearchConditions.of_record(again)) is None
    assert difference(first, SearchConditions.of_now([visit(), visit()])) is None


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        ((visit(),), "another number of workers: 1, not 2"),
        ((visit(), visit("64")), "another worker.execution_facts.max_num_seqs: 1 x 512, 1 x 64, not 512"),
    ],
)
def test_another_fleet_is_named(workers: tuple[Visit, ...], expected: str) -> None:
    """One worker fewer, one with another batch limit."""
    first = record(visit(), visit())
    assert expected == difference(first, SearchConditions.of_record(record(*workers)))
    assert expected == difference(first, SearchConditions.of_now(workers))


def test_other_code_and_another_machine_are_named() -> None:
    """The commit of the coordinator and of a worker; the accelerators, unless a worker did not tell them."""
    first, other = record(visit()), record(visit())
    other["host"]["commit"] = "beef"
    seen = difference(first, SearchConditions.of_record(other)) or ""
    assert seen.startswith("another commit of the coordinator: beef, not ")
    (host,) = (other := record(visit()))["summary"]["workers"][0]["hosts"]
    host["accelerators"][0]["name"] = "H100"
    seen = difference(first, SearchConditions.of_record(other)) or ""
    assert seen.startswith("another worker host.accelerators: [{'name': 'H100'")
    host |= {"hostname": "", "accelerators": []}
    assert difference(first, SearchConditions.of_record(other)) is None


def test_the_machines_of_an_engine_over_several_nodes_are_compared() -> None:
    """The head's machine is the same, that of the other node has another GPU or another commit."""

    def over_two_nodes(name: str, commit: str) -> Visit:
        head = visit()
        assert head.host is not None
        device = pb.Accelerator(name=name, driver_version="580", memory_bytes=1 << 37)
        other = pb.HostInfo(hostname="node2", commit=commit, num_usable_cores=16, accelerators=[device])
        head.host.engine_hosts.append(other)
        return head

    first = record(over_two_nodes("H200", "c0ffee"))
    assert difference(first, SearchConditions.of_now([over_two_nodes("H200", "c0ffee")])) is None
    for changed, name in (
        (over_two_nodes("H100", "c0ffee"), "accelerators"),
        (over_two_nodes("H200", "beef"), "commit"),
    ):
        for other in (SearchConditions.of_record(record(changed)), SearchConditions.of_now([changed])):
            assert (difference(first, other) or "").startswith(f"another worker host.{name}: ")


def test_workers_that_are_not_ready_are_not_compared() -> None:
    """A worker that loads, and one that does not answer."""
    loading = visit(state=pb.WORKER_STATE_LOADING)
    silent = Visit("node2:50051", trouble=Trouble("refused", "start it"))
    assert SearchConditions.of_now([visit(), loading]) is None
    assert SearchConditions.of_now([visit(), silent]) is None


def search(directory: Path, address: str) -> tuple[int, str]:
    """Search for Offline's sample count, in runs of at least 1 ms; returns exit code and what is told."""
    data = fleet.write_prompts(directory / "data.parquet", [[20, i] for i in range(200)])
    conf = fleet.write_conf(directory / "user.conf", "*.Offline.min_duration = 1\n")
    words = ["--scenario=offline", f"--workers={address}", f"--input-file={data}", f"--user-conf={conf}"]
    command = [sys.executable, "-m", "tokenfleet", "find-qps", *words, f"--output-dir={directory / 'out'}"]
    done = completed_command(command, 120)
    # Without the announcements of the runs.
    told = [line for line in done.stderr.splitlines(keepends=True) if " begins: " not in line]
    return done.returncode, done.stdout + "".join(told)


@pytest.mark.long
def test_a_search_does_not_continue_over_workers_with_other_flags(tmp_path: Path) -> None:
    """Workers with another batch limit: one line and exit code 2; without workers it tells its result."""
    with fleet.workers(tmp_path, 1, "--max-num-seqs", "64") as (worker,):
        address = worker.address
        code, output = search(tmp_path, address)
        assert (0, True) == (code, " queries/s is VALID: " in output), output
    assert (code, output) == search(tmp_path, address)
    other = fleet.start_worker(tmp_path / "other.log", "--max-num-seqs", "32", address=address)
    try:
        fleet.wait_serving(other)
        code, output = search(tmp_path, address)
    finally:
        other.stop()
    assert 2 == code
    assert "the next run has another worker.execution_facts.max_num_seqs: 32, not 64 as in run 1" in output
    assert "remove the directory to search anew, or give another --output-dir" in output
