"""Finds the runs of each side of a comparison and checks that they can be compared."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from common.flags import FlagError
from common.json_document import as_number, as_text, entry, read_object
from common.text import printable
from sut.log_files import MAX_RECORD_BYTES, RECORD
from sut.results.comparison.compared_files import read_grading, read_settings
from sut.results.comparison.request_rates import read_rate_before_tail
from sut.results.verdict import COMPLETE
from sut.settings import Scenario

SIDE_ARGUMENT = "RUNS"
MAX_DEPTH = 4
"""Levels of directories below a side's in which run.json is searched."""
MAX_RUNS = 1_000
MAX_TEXT_LEN = 100


@dataclass(frozen=True, slots=True, eq=False)
class ComparedRun:
    """A complete run and its run.json."""

    directory: Path
    record: Mapping[str, object]
    tokens_per_s_before_tail: float | None = None
    """Offline: see request_rates; None if the run has no requests.parquet."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings of LoadGen that the run's confs gave it, and what its score depends on, by file and key."""
    score_percent: float | None = None
    """Score of the run's answers; None if they have none."""

    def text(self, *keys: str) -> str:
        """Return a text of run.json, printable; empty if it is missing."""
        return printable(as_text(entry(self.record, *keys)), MAX_TEXT_LEN)

    def number(self, *keys: str) -> float | None:
        """Return a number of run.json above 0; None if there is none."""
        found = as_number(entry(self.record, *keys))
        return found if found is not None and 0 < found < 1e300 else None

    @property
    def start_s(self) -> float | None:
        """When the run began, in seconds since 1970; None if run.json does not tell."""
        try:
            return datetime.fromisoformat(self.text("started_utc")).timestamp()
        except ValueError:
            return None


class Side(NamedTuple):
    """The repeats of one side."""

    name: str
    """A for the baseline, then B, C and so on."""
    path: Path
    runs: tuple[ComparedRun, ...]
    """In order of their start."""


def read_sides(paths: Sequence[Path]) -> list[Side]:
    """Read the runs of all sides.

    Args:
        paths: Directories of runs, or directories that hold several; at least two.

    Raises:
        FlagError: A directory holds no runs of ours, a run is not complete, scenarios or modes differ, or a
            run is on two sides.
    """
    sides = [
        Side(chr(ord("A") + k), path, tuple(sorted(_read_runs(path), key=_order)))
        for k, path in enumerate(paths)
    ]
    _check_kinds(sides)
    _check_distinct(sides)
    return sides


def _read_runs(path: Path) -> list[ComparedRun]:
    if not path.is_dir():
        raise FlagError(SIDE_ARGUMENT, "is not a directory", path)
    places = _find_records(path)
    if not places:
        raise FlagError(
            SIDE_ARGUMENT, f"holds no {RECORD} within {MAX_DEPTH} levels: no run of tokenfleet", path
        )
    if len(places) > MAX_RUNS:
        raise FlagError(SIDE_ARGUMENT, f"holds {len(places)} runs, more than {MAX_RUNS}", path)
    return [_read_run(place) for place in places]


def _find_records(path: Path) -> list[Path]:
    """Find each run.json; a directory that cannot be read may hold runs of this side.

    Raises:
        OSError: Names a directory that cannot be read.
    """
    if (path / RECORD).exists():
        return [path / RECORD]
    found = []
    for place, names, files in os.walk(path, onerror=_refuse, followlinks=True):
        found += [Path(place, RECORD)] if RECORD in files else []
        # Also ends a walk in a circle of links.
        if len(Path(place).relative_to(path).parts) == MAX_DEPTH:
            names.clear()
    return found


def _refuse(error: OSError) -> None:
    raise error


def _read_run(place: Path) -> ComparedRun:
    directory, record = place.parent, read_object(place, SIDE_ARGUMENT, MAX_RECORD_BYTES)
    _check_record(ComparedRun(directory, record), place)
    # In other scenarios the rate is that of the schedule.
    is_offline = record.get("scenario") == Scenario.OFFLINE
    rate = read_rate_before_tail(directory, record["run_id"]) if is_offline else None
    settings = read_settings(directory, record, SIDE_ARGUMENT)
    grading = read_grading(directory, record, SIDE_ARGUMENT)
    return ComparedRun(directory, record, rate, {**settings, **grading.conditions}, grading.score_percent)


def _check_record(run: ComparedRun, place: Path) -> None:
    """Require the run.json of a complete run.

    Raises:
        FlagError: It is anything else.
    """
    outcome = run.text("verdict", "outcome")
    if run.text("scenario") not in list(Scenario) or not run.text("run_id") or not run.text("mode"):
        raise FlagError(SIDE_ARGUMENT, "is no run.json of tokenfleet", place)
    if outcome not in COMPLETE:
        raise FlagError(SIDE_ARGUMENT, f"the run is not complete: {outcome or 'no verdict'}", place)


def _order(run: ComparedRun) -> tuple[float, str]:
    return run.start_s or 0.0, run.text("run_id")


def _check_kinds(sides: Sequence[Side]) -> None:
    """Check that all runs have one scenario and one mode."""
    first = sides[0].runs[0]
    for side in sides:
        for run in side.runs:
            kind, expected = _kind(run), _kind(first)
            if kind != expected:
                reason = f"is {kind}, but {first.directory} is {expected}; name runs of one scenario and mode"
                raise FlagError(SIDE_ARGUMENT, reason, run.directory)


def _kind(run: ComparedRun) -> str:
    return f"{run.text('scenario')}/{run.text('mode')}"


def _check_distinct(sides: Sequence[Side]) -> None:
    known: dict[str, Path] = {}
    for run in (run for side in sides for run in side.runs):
        run_id = run.text("run_id")
        if run_id in known:
            raise FlagError(SIDE_ARGUMENT, f"is the same run as {known[run_id]}", run.directory)
        known[run_id] = run.directory
