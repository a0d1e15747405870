"""Find the directories of finished runs and read their run.json."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from common.flags import FlagError
from common.json_document import JsonObject, as_list, as_mappings, as_number, as_text, entry, read_object
from sut.benchmark import BENCHMARK, ComplianceTest
from sut.log_files import MAX_RECORD_BYTES, RECORD
from sut.results.recorded_workers import engine_infos_of, machines_of, workers_of
from sut.settings import Scenario

RESULTS_FLAG = "--results"


class Division(StrEnum):
    """A division of a submission, by the name of its folder."""

    CLOSED = "closed"
    OPEN = "open"
    NETWORK = "network"


class RunKind(StrEnum):
    """What a run is for, by the name of its directory."""

    PERFORMANCE = "performance"
    ACCURACY = "accuracy"
    TEST07 = "TEST07"
    TEST09 = "TEST09"

    @property
    def compliance_test(self) -> ComplianceTest | None:
        """The compliance test; None in a performance or accuracy run."""
        return next((test for test in BENCHMARK.compliance_tests if test.name == self), None)

    @property
    def is_graded(self) -> bool:
        """Whether the answers of such a run get a score."""
        return self in (RunKind.ACCURACY, RunKind.TEST07)


class Fault(NamedTuple):
    """Why runs cannot be submitted, in one line."""

    where: str
    """The run, as scenario/kind, or what the runs have in common."""
    reason: str
    is_rule: bool = False
    """Whether it is a rule of submissions that a rehearsal need not meet: engine, counts, durations."""

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, slots=True, eq=False)
class RecordedRun:
    """One run's directory and its run.json."""

    directory: Path
    scenario: Scenario
    """By the directory's name; the record may differ."""
    kind: RunKind
    """By the directory's name; the record may differ."""
    record: JsonObject

    @property
    def name(self) -> str:
        """Scenario and kind."""
        return f"{self.scenario}/{self.kind}"

    def value(self, *keys: str) -> object:
        """Return an entry of run.json; None if it is missing."""
        return entry(self.record, *keys)

    def text(self, *keys: str) -> str:
        """Return a text of run.json; empty if it is missing or no text."""
        return as_text(self.value(*keys))

    def texts(self, *keys: str) -> list[str]:
        """Return a list of texts of run.json; empty if it is missing."""
        return [part for part in as_list(self.value(*keys)) if isinstance(part, str)]

    def number(self, *keys: str) -> float | None:
        """Return a number of run.json; None if it is missing, or no finite number."""
        return as_number(self.value(*keys))

    @property
    def num_answers(self) -> int:
        """Answers that the accuracy log of an accuracy or compliance run must have."""
        num_samples = int(self.number("dataset", "num_samples") or 0)
        is_accuracy = self.kind is RunKind.ACCURACY
        return min(num_samples, BENCHMARK.accuracy_sample_count) if is_accuracy else num_samples

    @property
    def workers(self) -> list[JsonObject]:
        """The rows of the workers."""
        return workers_of(self.record)

    @property
    def engine_infos(self) -> list[JsonObject]:
        """What the workers said of themselves on each stream."""
        return engine_infos_of(self.record)

    @property
    def engines(self) -> list[str]:
        """Names and versions of the engines, each once."""
        return sorted({f"{info.get('engine')} {info.get('engine_version')}" for info in self.engine_infos})

    @property
    def host_answers(self) -> list[JsonObject]:
        """The latest answer of each worker to GetHost, without workers that never answered."""
        return [host for worker in self.workers for host in _latest_host(worker)]

    @property
    def worker_hosts(self) -> list[JsonObject]:
        """The machines of the workers that answered, with those of the other nodes of their engines."""
        return [machine for host in self.host_answers for machine in machines_of(host)]

    @property
    def machines(self) -> list[list[JsonObject]]:
        """What the workers said of each machine: several may share one, each with its accelerators.

        Machines from one image can have one host name: the workers' addresses tell them apart.
        """
        found: dict[tuple[str, object], list[JsonObject]] = {}
        for worker in self.workers:
            place = str(worker.get("address")).rpartition(":")[0]
            for machine in (part for host in _latest_host(worker) for part in machines_of(host)):
                found.setdefault((place, machine.get("hostname")), []).append(machine)
        return list(found.values())


def _latest_host(worker: JsonObject) -> list[JsonObject]:
    """Return the latest answer of a worker to GetHost as a list of one; empty if it never answered."""
    return [host for host in as_mappings(worker.get("hosts")) if host.get("hostname")][-1:]


Runs = Mapping[Scenario, Mapping[RunKind, RecordedRun]]
"""The runs of a submission, in the order of scenarios and kinds."""


def all_runs(runs: Runs) -> list[RecordedRun]:
    """List the runs in their order."""
    return [run for by_kind in runs.values() for run in by_kind.values()]


def find_runs(results: Iterable[Path]) -> Runs:
    """Find the runs in output directories of `tokenfleet run`.

    Args:
        results: Directories that hold <scenario>/<kind>/run.json.

    Raises:
        FlagError: A directory or a run.json cannot be read, no run is found, or one is found twice.
    """
    found: dict[Scenario, dict[RunKind, RecordedRun]] = {}
    for directory in results:
        if not directory.is_dir():
            raise FlagError(RESULTS_FLAG, "is not a directory", directory)
        for run in _read_runs(directory):
            known = found.setdefault(run.scenario, {})
            if run.kind in known:
                reason = f"holds {run.name}, and so does {known[run.kind].directory}"
                raise FlagError(RESULTS_FLAG, reason, directory)
            known[run.kind] = run
    if not found:
        places = ", ".join(map(str, results))
        raise FlagError(RESULTS_FLAG, f"no <scenario>/<performance|accuracy|TESTnn>/{RECORD} in {places}")
    return {
        scenario: {kind: found[scenario][kind] for kind in RunKind if kind in found[scenario]}
        for scenario in Scenario
        if scenario in found
    }


def _read_runs(results: Path) -> list[RecordedRun]:
    places = [(results / scenario / kind, scenario, kind) for scenario in Scenario for kind in RunKind]
    return [
        RecordedRun(
            directory, scenario, kind, read_object(directory / RECORD, RESULTS_FLAG, MAX_RECORD_BYTES)
        )
        for directory, scenario, kind in places
        if (directory / RECORD).exists()
    ]
