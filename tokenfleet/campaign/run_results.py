"""Reads what a run left in its directory, and decides whether it counts for the campaign."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.bounded_file import read_bounded
from common.text import printable
from sut.log_files import AUDIT_CONFIG, USER_CONF, hash_files, read_record
from sut.results.loadgen_figures import TOKEN_RATES
from sut.results.recorded_workers import machines_of_worker
from sut.results.submission.recorded_runs import RecordedRun, RunKind
from sut.results.submission.set_faults import kernel_choices
from sut.results.verdict import COMPLETE, Outcome
from sut.settings import Scenario
from tokenfleet.campaign.planned_runs import PlannedRun, RunIdentity, decisive_conf
from tokenfleet.campaign.shared_facts import shared_facts

MAX_TEXT_LEN = 300
ASIDE = "superseded"
"""Directory of runs that do not count any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A run's record, as far as the campaign needs it."""

    run_id: str
    outcome: str
    reason: str
    warnings: tuple[str, ...]
    """Names of the checks that warn."""
    deviations: tuple[str, ...]
    files_sha256: Mapping[str, str]
    """Of the logs and confs, when the run ended."""
    identity: RunIdentity
    engine_hashes: frozenset[str]
    """Of every stream of every worker."""
    model_hashes: frozenset[str]
    kernels: frozenset[str]
    """What chooses the kernels of the engines: see kernel_choices."""
    shared: Mapping[str, str]
    """See shared_facts."""
    loadgen_version: str
    commits: frozenset[str]
    """Of the source trees of coordinator and workers; an installed package has the empty text."""
    spec_hash: str
    wall_s: float
    tokens_per_s: float | None
    samples_per_s: float | None
    """Rate of an Offline performance run."""

    @property
    def is_accepted(self) -> bool:
        """Whether LoadGen and all checks accept it; grading may still be due."""
        return self.outcome in (Outcome.VALID, Outcome.NOT_GRADED)

    @property
    def is_complete(self) -> bool:
        """Whether LoadGen's test ended, whatever the checks say."""
        return self.outcome in COMPLETE


def read_result(run_dir: Path, scenario: Scenario, kind: RunKind) -> RunResult | None:
    """Read a run's directory; None if it holds no record that a run has written."""
    try:
        return _to_result(run_dir, read_record(run_dir), scenario, kind)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _to_result(run_dir: Path, record: Mapping[str, Any], scenario: Scenario, kind: RunKind) -> RunResult:
    verdict, workers = record["verdict"], (record["summary"] or {}).get("workers", [])
    infos = [info for worker in workers for info in worker["stream_infos"]]
    hosts = [machine for worker in workers for machine in machines_of_worker(worker)]
    audit = run_dir / AUDIT_CONFIG
    conf = read_bounded(run_dir / USER_CONF).decode()
    identity = RunIdentity(
        str(record["dataset"]["sha256"]),
        dict(record["generation"]),
        decisive_conf(scenario, kind, conf),
        read_bounded(audit).decode() if audit.exists() else None,
    )
    figures = record["loadgen"]
    return RunResult(
        run_id=printable(str(record["run_id"]), MAX_TEXT_LEN),
        outcome=printable(str(verdict["outcome"]), MAX_TEXT_LEN),
        reason=printable(str(verdict["reason"]), MAX_TEXT_LEN),
        warnings=tuple(
            printable(str(check["name"]), MAX_TEXT_LEN) for check in verdict["checks"] if check["warning"]
        ),
        deviations=tuple(printable(str(text), MAX_TEXT_LEN) for text in verdict["deviations"]),
        files_sha256=dict(record["files_sha256"]),
        identity=identity,
        engine_hashes=frozenset(str(info["engine_hash"]) for info in infos),
        model_hashes=frozenset(str(info["model_hash"]) for info in infos),
        kernels=kernel_choices(info.get("execution_facts", {}) for info in infos),
        shared=shared_facts(RecordedRun(run_dir, scenario, kind, record)),
        loadgen_version=str(record["versions"]["mlcommons_loadgen"]),
        commits=frozenset(
            [str(record["versions"].get("commit", "")), *(str(host["commit"]) for host in hosts)]
        ),
        spec_hash=str(record["spec_hash"]),
        wall_s=float(record["wall_s"]),
        tokens_per_s=next((float(figures[key]) for key in TOKEN_RATES if key in figures), None),
        samples_per_s=float(rate) if (rate := figures.get("result_samples_per_second")) else None,
    )


def changed_file(run_dir: Path, result: RunResult) -> str | None:
    """Return which log or conf of an earlier start's run is not that of the run; None if all are.

    A run that has just been made needs no such check: its logs may have hundreds of megabytes.
    """
    try:
        hashes = hash_files(run_dir)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    changed = (name for name, sha256 in result.files_sha256.items() if hashes.get(name) != sha256)
    return next((f"{name} is not the file of the run any more" for name in changed), None)


def set_aside(run: PlannedRun) -> Path | None:
    """Move the run's directory out of the way, whatever it holds; returns its new place.

    Nothing of it is ever read again by this program.
    """
    if not run.run_dir.exists():
        return None
    folder = run.output_dir / ASIDE
    folder.mkdir(exist_ok=True)
    place = next(path for path in _numbered(folder, run) if not path.exists())
    run.run_dir.rename(place)
    return place


def _numbered(folder: Path, run: PlannedRun) -> Iterator[Path]:
    number = 1
    while True:
        yield folder / f"{run.scenario}-{run.kind}-{number}"
        number += 1
