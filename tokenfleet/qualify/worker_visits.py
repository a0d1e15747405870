"""The workers of a qualification: each must be ready before any check runs."""

from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.json_format import MessageToDict

from common.signals import run_until_signal
from coordinator.doctor.visits import VISIT_TIMEOUT_S, Visit, visit_all
from coordinator.transport.access import Access
from protos import worker_pb2 as pb
from tokenfleet.qualify.qualification import Assessment, CheckResult


class ReadyWorkers(NamedTuple):
    """What the workers say, by address; a node counts as its replicas."""

    infos: dict[str, pb.WorkerInfo]

    @property
    def engines(self) -> dict[str, dict[str, object]]:
        """Each worker's answer to GetInfo, as in run.json."""
        return {
            address: MessageToDict(info, preserving_proto_field_name=True)
            for address, info in self.infos.items()
        }


def visit_workers(addresses: Sequence[str], access: Access) -> tuple[ReadyWorkers, CheckResult]:
    """Visit every worker.

    Returns:
        The workers that are ready, and whether all are.
    """
    visits = run_until_signal(visit_all(tuple(addresses), access, VISIT_TIMEOUT_S))
    workers = [visit for visit in visits if visit.trouble is not None or not visit.info.replicas]
    ready = {visit.address: visit.info for visit in workers if not _fault(visit)}
    faults = [f"{visit.address}: {fault}" for visit in workers if (fault := _fault(visit))]
    if faults:
        seen = f"{len(faults)} of {len(workers)} not ready, {faults[0]}"
        advice = "wait until every worker is SERVING; `tokenfleet doctor` tells more"
        return ReadyWorkers(ready), CheckResult("workers", Assessment.FAIL, seen, advice)
    first = next(iter(ready.values()))
    seen = f"{len(ready)} ready, {first.engine} {first.engine_version}, {first.model}".rstrip(", ")
    return ReadyWorkers(ready), CheckResult("workers", Assessment.PASS, seen)


def _fault(visit: Visit) -> str:
    if visit.trouble is not None:
        return visit.trouble.seen
    if visit.token_refusal:
        return visit.token_refusal
    if visit.info.state != pb.WORKER_STATE_READY:
        return pb.WorkerState.Name(visit.info.state).removeprefix("WORKER_STATE_")
    return ""
