"""What all runs of a submission must have in common: of runs that exist, and of workers for the next ones."""

from pathlib import Path
from typing import Any

import pytest

from coordinator.doctor.visits import Visit
from protos import worker_pb2 as pb
from sut.results.submission.recorded_runs import RecordedRun, RunKind
from sut.settings import Scenario
from tokenfleet.campaign.shared_facts import shared_difference, shared_facts, shared_facts_of_workers

H200: dict[str, Any] = {"name": "H200", "memory_bytes": 1 << 37, "ecc": True, "max_sm_clock_mhz": 1980}


def visit(hostname: str, num_devices: int, version: str = "0.25.1", **host: Any) -> Visit:
    """Answer as a worker with accelerators would."""
    info = pb.WorkerInfo(engine="vllm", engine_version=version)
    devices = [pb.Accelerator(index=k, **H200) for k in range(num_devices)]
    answer = pb.HostInfo(hostname=hostname, num_cores=192, accelerators=devices, **host)
    return Visit(f"{hostname}:50052", info=info, host=answer)


def run_on(num_devices: int) -> RecordedRun:
    """Compose a run of one worker on machine a."""
    device = {**H200, "driver_version": "", "num_devices": num_devices}
    host = {"hostname": "a", "num_cores": 192, "accelerators": [device]}
    infos = [{"engine": "vllm", "engine_version": "0.25.1"}]
    record = {"summary": {"workers": [{"address": "a:50052", "stream_infos": infos, "hosts": [host]}]}}
    return RecordedRun(Path("a"), Scenario.OFFLINE, RunKind.PERFORMANCE, record)


@pytest.mark.parametrize(
    ("visits", "difference"),
    [
        ([visit("a", 8)], None),
        ([visit("b", 8)], None),
        ([visit("a", 6), visit("a", 2)], None),
        ([visit("a", 7)], "another set of machines: 192 cores, 7 x "),
        ([visit("a", 4), visit("b", 4)], "another set of machines: 192 cores, 4 x "),
        ([visit("a", 8, version="0.26.0")], "another engine: vllm 0.26.0, not vllm 0.25.1"),
        # Accelerators that a driver did not tell are not known to be others.
        ([visit("a", 0, not_told=["accelerators: NVML: timeout"])], None),
        ([Visit("a:50052", info=pb.WorkerInfo(engine="vllm", engine_version="0.25.1"))], None),
    ],
)
def test_workers_are_compared_with_a_run_as_far_as_both_are_known(
    visits: list[Visit], difference: str | None
) -> None:
    """The run had eight accelerators on one machine, and vLLM 0.25.1."""
    found = shared_difference(shared_facts(run_on(8)), shared_facts_of_workers(visits))
    assert difference == (found and difference and found[: len(difference)])
