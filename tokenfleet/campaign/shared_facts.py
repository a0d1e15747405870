"""What all runs of a submission must have in common beside weights and code: the engine and the machines."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from common.text import printable
from coordinator.doctor.visits import Visit
from coordinator.transport.worker_host import WorkerHost
from sut.results.submission.recorded_runs import RecordedRun, RunKind
from sut.results.submission.set_faults import set_of_machines
from sut.settings import Scenario

MAX_FACT_LEN = 100


def shared_facts(run: RecordedRun) -> dict[str, str]:
    """Describe engine and machines of a run; what is not known is left out."""
    facts = {"engine": ", ".join(run.engines), "set of machines": "".join(set_of_machines(run))}
    return {name: text for name, text in facts.items() if text}


def shared_facts_of_workers(visits: Iterable[Visit]) -> dict[str, str]:
    """Describe what a run over these workers would have."""
    workers = [
        {
            "address": visit.address,
            "stream_infos": [{"engine": visit.info.engine, "engine_version": visit.info.engine_version}],
            "hosts": [] if visit.host is None else [dataclasses.asdict(WorkerHost.of(visit.host))],
        }
        for visit in visits
        if not visit.info.replicas
    ]
    # As run.json would have it: lists instead of tuples.
    record = json.loads(json.dumps({"summary": {"workers": workers}}))
    return shared_facts(RecordedRun(Path(), Scenario.OFFLINE, RunKind.PERFORMANCE, record))


def shared_difference(known: Mapping[str, str], other: Mapping[str, str]) -> str | None:
    """Name what differs, with the value of `other` first; None if nothing is known to differ."""
    for name in known.keys() & other.keys():
        if known[name] != other[name]:
            return "another {}: {}, not {}".format(
                name, *(printable(facts[name], MAX_FACT_LEN) for facts in (other, known))
            )
    return None
