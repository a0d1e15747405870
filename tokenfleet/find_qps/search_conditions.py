"""The conditions of the runs of a search: all have to measure one fleet, with one version of the code."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from google.protobuf.json_format import MessageToDict

from common.json_document import JsonObject, as_mapping, entry, parse_object
from common.signals import run_until_signal
from common.text import printable
from coordinator.doctor.visits import VISIT_TIMEOUT_S, Visit, visit_all
from coordinator.transport.access import Access
from coordinator.transport.worker_host import WorkerHost
from protos import worker_pb2 as pb
from sut.results.comparison.configuration_differences import values_of_workers
from sut.results.recorded_workers import infos_of, machines_of, machines_of_worker, workers_of

MAX_VALUE_LEN = 60
_ENGINE, _HOST = "worker", "worker host"
_ENGINE_FACTS = ("engine", "engine_version", "engine_hash", "execution_facts")
_OWN_HOST_FACTS = ("commit", "num_usable_cores", "cpu_quota_cores")
_HOST_FACTS = (*_OWN_HOST_FACTS, "accelerators")


class SearchConditions(NamedTuple):
    """What decides the rates of a run beside its own rate, as texts by name."""

    values: Mapping[str, str]

    @classmethod
    def of_record(cls, record: JsonObject) -> "SearchConditions":
        """Take the conditions from a run's run.json."""
        workers = workers_of(record)
        infos = [infos_of(worker) for worker in workers]
        hosts = [machines_of_worker(worker) for worker in workers]
        found = _describe(as_mapping(record.get("host")), infos, hosts)
        loadgen = entry(record, "versions", "mlcommons_loadgen")
        return cls(found | {"LoadGen version": str(loadgen), "run hash": str(entry(record, "spec_hash"))})

    @classmethod
    def of_now(cls, visits: Sequence[Visit]) -> "SearchConditions | None":
        """Take the conditions of a run that would begin now; None if a worker is not ready."""
        workers = [visit for visit in visits if visit.trouble is not None or not visit.info.replicas]
        if any(visit.trouble or visit.info.state != pb.WORKER_STATE_READY for visit in workers):
            return None
        infos = [[MessageToDict(visit.info, preserving_proto_field_name=True)] for visit in workers]
        hosts = [
            machines_of(_as_recorded(WorkerHost.of(visit.host))) if visit.host is not None else []
            for visit in workers
        ]
        return cls(_describe(_as_recorded(WorkerHost.of_this_process()), infos, hosts))

    def first_difference(self, other: "SearchConditions") -> str | None:
        """Name what differs, with the value of `other` first; None if nothing is known to differ.

        A fact of the engine that only one has differs; anything else that only one has is not known.
        """
        for name in sorted(self.values.keys() | other.values.keys()):
            mine, its = (found.get(name) for found in (self.values, other.values))
            is_known = None not in (mine, its) or name.startswith(f"{_ENGINE}.")
            if mine != its and is_known:
                shown = (printable(str(value or "none"), MAX_VALUE_LEN) for value in (its, mine))
                return f"another {name}: {', not '.join(shown)}"
        return None


def visit_now(addresses: tuple[str, ...], access: Access) -> SearchConditions | None:
    """Ask the workers of a search for their present conditions; None if one is not ready."""
    return SearchConditions.of_now(run_until_signal(visit_all(addresses, access, VISIT_TIMEOUT_S)))


def _describe(
    host: JsonObject, infos: Sequence[Sequence[JsonObject]], hosts: Sequence[Sequence[JsonObject]]
) -> dict[str, str]:
    """Describe the coordinator's host and the workers.

    Args:
        host: Of the coordinator.
        infos: Each worker's descriptions of itself.
        hosts: The machines of each worker's engine; without a host name it did not answer.
    """
    found = {f"{name} of the coordinator": str(host.get(name)) for name in _OWN_HOST_FACTS}
    found |= {"number of workers": str(len(infos))}
    found |= values_of_workers(_ENGINE, [[_selected(info) for info in own] for own in infos])
    if all(own and all(one.get("hostname") for one in own) for own in hosts):
        machines = [[{name: one.get(name) for name in _HOST_FACTS} for one in own] for own in hosts]
        found |= values_of_workers(_HOST, machines)
    return found


def _selected(info: JsonObject) -> JsonObject:
    return {name: info[name] for name in _ENGINE_FACTS if name in info}


def _as_recorded(host: WorkerHost) -> JsonObject:
    """Return a machine as run.json has it."""
    return parse_object(json.dumps(dataclasses.asdict(host)))
