"""The fields of systems/*.json: where each value comes from, and what contradicts."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.flags import FlagError
from sut.results.submission.recorded_runs import Division, RecordedRun, RunKind
from sut.results.submission.system_description import (
    NETWORK_FIELDS,
    REQUIRED_VALUES,
    describe_system,
    read_sysinfo,
)
from sut.settings import Scenario

GIB = 2**30
H200 = {"name": "NVIDIA H200", "driver_version": "580.1", "memory_bytes": 141 * GIB, "max_sm_clock_mhz": 1980}
HARDWARE = {
    "processor_model": "Xeon 8480+",
    "processor_sockets": "2",
    "cores_per_socket": "56",
    "processor_max_mhz": "3800",
    "processor_caches": "L1d 48K, L2 2048K, L3 105M",
    "operating_system": "Ubuntu 24.04",
    "kernel": "6.8.0",
    "network_cards": "2x mlx5_core 100000 Mbit/s",
    "infiniband_ports": "8x InfiniBand 400 Gb/sec (4X NDR)",
    "disks": "2x NVMe SSD 3841 GB",
}
GIVEN = {"division": "closed", "submitter": "Org", "system_name": "two nodes"}


def host(name: str, num_devices: int) -> dict[str, Any]:
    """Describe a machine as run.json does."""
    return {
        "hostname": name,
        "python_version": "3.12.1",
        "package_versions": {"vllm": "0.32.0", "torch": "2.13.0", "tokenfleet": "0.1.0"},
        "memory_bytes": 2048 * GIB,
        "accelerators": [H200 | {"num_devices": num_devices}],
        "hardware": HARDWARE,
    }


def run_on(*hosts: dict[str, Any]) -> RecordedRun:
    """Make the record of a run with a worker on each of the machines."""
    info = {"engine": "vllm", "engine_version": "0.32.0"}
    workers = [
        {"address": f"{one['hostname']}:{50051 + k}", "hosts": [one], "stream_infos": [info]}
        for k, one in enumerate(hosts)
    ]
    record = {"summary": {"workers": workers}, "versions": {"mlcommons_loadgen": "6.0.17"}}
    return RecordedRun(Path("runs"), Scenario.OFFLINE, RunKind.PERFORMANCE, record)


def test_the_machines_of_the_runs_fill_what_they_know() -> None:
    """Two nodes, the first with two workers of four devices: two nodes of eight accelerators."""
    run = run_on(host("a", 4), host("a", 4), host("b", 8))
    found = describe_system([run], GIVEN, {}, Division.CLOSED)
    expected = {
        "number_of_nodes": "2",
        "accelerators_per_node": "8",
        "accelerator_model_name": "NVIDIA H200",
        "accelerator_memory_capacity": "141 GiB",
        "accelerator_frequency": "1980 MHz",
        "host_processor_model_name": "Xeon 8480+",
        "host_processors_per_node": "2",
        "host_processor_core_count": "56",
        "host_processor_frequency": "3800 MHz",
        "host_processor_caches": "L1d 48K, L2 2048K, L3 105M",
        "host_memory_capacity": "2048 GiB",
        "host_storage_capacity": "2x NVMe SSD 3841 GB",
        "host_networking": "2x mlx5_core 100000 Mbit/s, 8x InfiniBand 400 Gb/sec (4X NDR)",
        "operating_system": "Ubuntu 24.04",
        "framework": "vLLM 0.32.0",
        "other_software_stack": "Linux 6.8.0, Python 3.12.1, driver 580.1, torch 2.13.0, tokenfleet 0.1.0, "
        "LoadGen 6.0.17",
    }
    assert expected == {name: found.values[name] for name in expected}
    assert set(found.missing) == {
        *("status", "host_memory_configuration", "host_networking_topology", "cooling"),
        *("accelerator_host_interconnect", "accelerator_memory_configuration", "accelerator_interconnect"),
    }
    assert () == found.conflicts


def test_nodes_with_unequal_accelerators_are_asked_for() -> None:
    """No number is invented where the nodes differ."""
    found = describe_system([run_on(host("a", 4), host("b", 8))], GIVEN, {}, Division.CLOSED)
    assert "accelerators_per_node" in found.missing


def test_machines_with_one_host_name_are_asked_for() -> None:
    """Two machines from one image are not one node of sixteen accelerators."""
    run = run_on(host("localhost", 8), host("localhost", 8))
    for worker, address in zip(run.workers, ("10.0.0.1:50051", "10.0.0.2:50051"), strict=True):
        worker["address"] = address  # type: ignore[index]  # the test's own dictionary
    found = describe_system([run], GIVEN, {}, Division.CLOSED)
    assert {"number_of_nodes", "accelerators_per_node"} <= set(found.missing)


def set_nnodes(run: RecordedRun, nnodes: str) -> None:
    """Record the number of nodes of each engine."""
    for info in run.engine_infos:
        info["engine_args"] = {"nnodes": nnodes}  # type: ignore[index]  # the test's own dictionary


def test_the_nodes_of_an_engine_over_several_machines_are_counted() -> None:
    """The record has the machines of all nodes: two nodes of eight, the second with less memory."""
    second = host("b", 8) | {"memory_bytes": 1024 * GIB}
    run = run_on(host("a", 8) | {"engine_hosts": [second]})
    set_nnodes(run, "2")
    found = describe_system([run], GIVEN, {}, Division.CLOSED)
    names = ("number_of_nodes", "accelerators_per_node", "host_memory_capacity")
    assert ["2", "8", "1024 GiB, 2048 GiB"] == [found.values[name] for name in names]


def test_nodes_that_the_record_lacks_are_asked_for() -> None:
    """A record may name the head's machine alone: the others are not counted as if they did not exist."""
    run = run_on(host("a", 8))
    set_nnodes(run, "2")
    found = describe_system([run], GIVEN, {}, Division.CLOSED)
    assert ("number_of_nodes" in found.missing, found.values["accelerators_per_node"]) == (True, "8")
    told = describe_system([run], GIVEN | {"number_of_nodes": "2"}, {}, Division.CLOSED)
    assert ("2", ()) == (told.values["number_of_nodes"], told.conflicts)


def test_the_machines_behind_a_network_sut_are_asked_for() -> None:
    """The record has the machine of the Network SUT alone: its accelerators are not those of the system."""
    run = run_on(host("front", 0))
    for info in run.engine_infos:
        info["execution_facts"] = {"num_workers": "2"}  # type: ignore[index]  # the test's own dictionary
    found = describe_system([run], GIVEN, {}, Division.NETWORK)
    told = ("number_of_nodes", "accelerators_per_node", "accelerator_model_name", "host_memory_capacity")
    assert {*told} <= {*found.missing}
    assert "vLLM 0.32.0" == found.values["framework"]


def test_a_given_value_precedes_a_captured_one_and_both_the_runs() -> None:
    """--set, then mlperf-sysinfo, then the runs; other captured fields are kept."""
    captured = {"cooling": "air", "operating_system": "ubuntu 24.04", "system_size": "8x H200"}
    given = GIVEN | {"cooling": "water"}
    found = describe_system([run_on(host("a", 8))], given, captured, Division.CLOSED).values
    assert ("water", "ubuntu 24.04", "8x H200") == tuple(
        found[name] for name in ("cooling", "operating_system", "system_size")
    )


@pytest.mark.parametrize(
    ("given", "captured", "line"),
    [
        ({}, {"number_of_nodes": "2"}, "number_of_nodes is 2 in --sysinfo, and 1 in the runs"),
        ({"status": "soon"}, {}, "status is 'soon', not one of available, preview, rdi"),
        ({"system_type": "edge"}, {}, "system_type is 'edge', not datacenter"),
        ({"number_of_nodes": "one"}, {}, "number_of_nodes is 'one', not a whole number"),
    ],
)
def test_what_contradicts_is_named(given: dict[str, str], captured: dict[str, str], line: str) -> None:
    """A value that the official checker refuses, or that the runs contradict, is one line."""
    found = describe_system([run_on(host("a", 8))], GIVEN | given, captured, Division.CLOSED)
    assert (line,) == found.conflicts


def test_the_network_division_has_its_own_fields() -> None:
    """is_network is the text that the official checker reads, in the network division alone."""
    run = run_on(host("a", 8))
    network = describe_system([run], GIVEN, {}, Division.NETWORK)
    assert "true" == network.values["is_network"]
    assert set(NETWORK_FIELDS) - {"is_network"} <= set(network.missing)
    captured = {"is_network": "false"}
    assert "is_network" not in describe_system([run], GIVEN, captured, Division.CLOSED).values


def test_mlperf_sysinfo_of_the_inference_profile_is_read(tmp_path: Path) -> None:
    """Flat fields are taken; empty ones, nested ones and what was not detected are not."""
    document = {
        "host_processor_model_name": "Xeon",
        "number_of_nodes": 1,
        "framework": "",
        "accelerator_interconnect": "Not detected: nvidia-smi failed",
        "mlperf_sysinfo": {"shape": "flat", "complete": True},
    }
    path = tmp_path / "system_desc.json"
    path.write_text(json.dumps(document))
    assert {"host_processor_model_name": "Xeon", "number_of_nodes": "1"} == read_sysinfo(path)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"mlperf_sysinfo": {"shape": "nested"}}, "use mlperf-sysinfo's profile inference"),
        ({"mlperf_sysinfo": {"shape": "flat", "complete": False}}, "does not describe the whole system"),
        ([], "holds a list, not an object"),
    ],
)
def test_another_capture_is_refused(tmp_path: Path, document: object, reason: str) -> None:
    """The other profile, a partial capture and other JSON are one line."""
    path = tmp_path / "system_desc.json"
    path.write_text(json.dumps(document))
    with pytest.raises(FlagError, match=reason):
        read_sysinfo(path)


def test_the_lists_of_fields_are_whole() -> None:
    """The official checker requires 26 values of 35 fields, and 13 of the network."""
    assert 26 == len(set(REQUIRED_VALUES))
    assert 13 == len(set(NETWORK_FIELDS))
