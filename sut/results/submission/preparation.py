"""Check the runs of a submission and compose its documents, before anything is written."""

from collections.abc import Mapping
from typing import NamedTuple

from common.bounded_file import read_bounded
from common.flags import FlagError
from sut.results.submission.official_checker import check_clone
from sut.results.submission.quantization import QuantizationError, quantization_page
from sut.results.submission.recorded_runs import Fault, RecordedRun, RunKind, Runs, all_runs, find_runs
from sut.results.submission.run_faults import run_faults
from sut.results.submission.scenario_documents import measure
from sut.results.submission.set_faults import commits_of, set_faults
from sut.results.submission.source_snapshot import check_source
from sut.results.submission.submission_flags import CALIBRATION_FLAG, SET_FLAG, SubmissionFlags
from sut.results.submission.system_description import describe_system, read_sysinfo
from sut.results.submission.tree import SCENARIO_FOLDERS, Submission, check_apart, check_free
from sut.settings import Scenario

_DRAFT_CALIBRATION = "Not described yet."
_REHEARSAL_NOTE = "Rehearsal, not a submission."
_REHEARSAL = "Rehearsal, not a submission. The runs do not meet these rules:"


class Preparation(NamedTuple):
    """What a tree is laid out from, or what prevents it."""

    submission: Submission | None
    """None if the runs cannot be submitted or something is missing."""
    faults: tuple[Fault, ...]
    """Why the runs cannot be submitted."""
    accepted: tuple[Fault, ...]
    """Rules of submissions that the runs of a rehearsal do not meet."""
    missing: tuple[str, ...]
    """Flags that the user must still give, one line each; a draft is laid out without them."""


class _Documents(NamedTuple):
    """The documents that describe the system."""

    description: Mapping[str, str]
    measurements: Mapping[Scenario, Mapping[str, str]]
    calibration_page: str
    missing: tuple[str, ...]
    conflicts: tuple[str, ...]


def prepare(flags: SubmissionFlags) -> Preparation:
    """Check the runs and compose the documents.

    Raises:
        FlagError: A flag or a file cannot be used.
    """
    check_free(flags.output, flags.originals)
    check_apart(flags.output, flags.originals, flags.results)
    if flags.official_checker is not None:
        check_clone(flags.official_checker)
    runs = find_runs(flags.results)
    documents = _compose(flags, runs)
    found = [fault for run in all_runs(runs) for fault in run_faults(run, flags.division)]
    found += set_faults(runs, flags.division)
    found += [Fault("system", text) for text in documents.conflicts]
    accepted = tuple(fault for fault in found if fault.is_rule and flags.rehearsal)
    faults = tuple(fault for fault in found if fault not in accepted)
    if faults or (documents.missing and not flags.draft):
        return Preparation(None, faults, accepted, documents.missing)
    submission = Submission(
        runs=runs,
        division=flags.division,
        submitter=flags.submitter,
        system=flags.system,
        description={**documents.description, **({"sw_notes": _REHEARSAL_NOTE} if accepted else {})},
        measurements=documents.measurements,
        calibration_page=documents.calibration_page,
        notes=[_REHEARSAL, "", *(f"- {fault}" for fault in accepted)] if accepted else [],
        source=flags.source,
        commit=_commit(flags, runs),
    )
    return Preparation(submission, (), accepted, documents.missing)


def _compose(flags: SubmissionFlags, runs: Runs) -> _Documents:
    captured = {} if flags.sysinfo is None else read_sysinfo(flags.sysinfo)
    system = describe_system(all_runs(runs), flags.given, captured, flags.division)
    measured = {scenario: measure(_first(by_kind), flags.given) for scenario, by_kind in runs.items()}
    page, page_missing = _calibration_page(flags, runs)
    fields = dict.fromkeys(
        [*system.missing, *(name for found in measured.values() for name in found.missing)]
    )
    return _Documents(
        description=system.values,
        measurements={scenario: found.values for scenario, found in measured.items()},
        calibration_page=page,
        missing=(*(f"{SET_FLAG} {name}=..." for name in fields), *page_missing),
        conflicts=system.conflicts,
    )


def _calibration_page(flags: SubmissionFlags, runs: Runs) -> tuple[str, tuple[str, ...]]:
    """Compose the quantization page; returns it and what is missing for it."""
    if flags.calibration is not None:
        text = _read_calibration(flags)
    else:
        text = _DRAFT_CALIBRATION if flags.draft else ""
    records = {SCENARIO_FOLDERS[scenario]: _first(by_kind).record for scenario, by_kind in runs.items()}
    try:
        return quantization_page(flags.system, records, text), ()
    except QuantizationError as error:
        return "", tuple(f"{CALIBRATION_FLAG} FILE: {reason}" for reason in error.missing)


def _read_calibration(flags: SubmissionFlags) -> str:
    assert flags.calibration is not None
    try:
        return read_bounded(flags.calibration).decode()
    except OSError as error:
        raise FlagError(CALIBRATION_FLAG, str(error.strerror or error), flags.calibration) from error
    except UnicodeDecodeError as error:
        raise FlagError(CALIBRATION_FLAG, f"is not UTF-8: {error.reason}", flags.calibration) from error


def _commit(flags: SubmissionFlags, runs: Runs) -> str:
    commits = [commit for run in all_runs(runs) for commit in commits_of(run)]
    return check_source(flags.source, commits, flags.commit)


def _first(by_kind: Mapping[RunKind, RecordedRun]) -> RecordedRun:
    return next(iter(by_kind.values()))
