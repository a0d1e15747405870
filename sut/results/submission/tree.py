"""Lay out the tree of a submission under a hidden name, and move it into place when it is whole.

Source of the layout: tools/submission/submission_checker/constants.py of v6.1, tools/submission/
truncate_accuracy_log.py, and run_verification.py of TEST07 and TEST09.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.atomic_files import named_errors
from common.flags import FlagError
from sut import log_files
from sut.benchmark import BENCHMARK
from sut.results.submission.grading_faults import VERIFY_FILES
from sut.results.submission.recorded_runs import RESULTS_FLAG, Division, RecordedRun, RunKind, Runs
from sut.results.submission.scenario_documents import scenario_readme
from sut.results.submission.source_snapshot import write_snapshot
from sut.results.submission.truncated_log import copy_and_truncate
from sut.settings import Scenario

OUTPUT_FLAG, ORIGINALS_FLAG = "--output", "--originals"
# As the checker spells them.
SCENARIO_FOLDERS = {
    Scenario.OFFLINE: "Offline",
    Scenario.SERVER: "Server",
    Scenario.INTERACTIVE: "Interactive",
}
_TEXT_LOGS = (log_files.SUMMARY, log_files.DETAIL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a tree is laid out from."""

    runs: Runs
    division: Division
    submitter: str
    system: str
    """Name of the system's folder and JSON file."""
    description: Mapping[str, str]
    """Content of systems/<system>.json."""
    measurements: Mapping[Scenario, Mapping[str, str]]
    """Content of each scenario's measurements.json."""
    calibration_page: str
    notes: list[str]
    """Sentences that stand first in each README.md."""
    source: Path
    commit: str


def check_free(output: Path, originals: Path) -> None:
    """Require two paths that do not exist, in directories that do.

    Raises:
        FlagError: Names the path.
    """
    for path in (output, originals):
        if os.path.lexists(path):
            raise FlagError(OUTPUT_FLAG, "exists: move it away, or name another", path)
    if not output.absolute().parent.is_dir():
        raise FlagError(OUTPUT_FLAG, f"the directory {output.absolute().parent} does not exist", output)


def check_apart(output: Path, originals: Path, results: Iterable[Path]) -> None:
    """Require tree and accuracy logs beside each other, and outside of the runs, which may be replaced.

    Raises:
        FlagError: Names the path.
    """
    for flag, path, other in ((ORIGINALS_FLAG, originals, output), (OUTPUT_FLAG, output, originals)):
        if path.resolve().is_relative_to(other.resolve()):
            raise FlagError(flag, f"lies in {other}; the accuracy logs are no part of the tree", path)
    runs = [directory / scenario for directory in results for scenario in Scenario]
    for flag, path in ((OUTPUT_FLAG, output), (ORIGINALS_FLAG, originals)):
        for directory in runs:
            if path.resolve().is_relative_to(directory.resolve()):
                raise FlagError(flag, f"lies in {directory}, a directory of runs", path)


def lay_out(submission: Submission, output: Path, originals: Path) -> None:
    """Write the tree, and the whole accuracy logs beside it.

    Args:
        submission: What it is laid out from.
        output: The tree; nothing is there before it is whole.
        originals: Directory of the accuracy logs that are truncated in the tree.

    Raises:
        FlagError: A path exists or cannot be written, or the source repository lacks the commit.
    """
    check_free(output, originals)
    try:
        with _hidden(originals) as kept, _hidden(output) as tree:
            place = Path(submission.division, submission.submitter)
            _Layout(submission, tree / place, kept / place).write()
            os.rename(kept, originals)
            try:
                os.rename(tree, output)
            except OSError:
                shutil.rmtree(originals)
                raise
    except OSError as error:
        shown = "" if error.filename == str(output) else f" {error.filename}"
        raise FlagError(OUTPUT_FLAG, f"cannot write{shown}: {error.strerror}", output) from error


@contextlib.contextmanager
def _hidden(path: Path) -> Iterator[Path]:
    """Yield a new directory beside a path; removes it if it is still there at the end."""
    hidden = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    with named_errors(path, hidden):
        hidden.mkdir()
        try:
            yield hidden
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Writes the folder of one submitter."""

    submission: Submission
    folder: Path
    """<division>/<submitter> of the tree."""
    originals: Path
    """The same folder of the whole accuracy logs."""

    def write(self) -> None:
        submission = self.submission
        for name in ("systems", "documentation"):
            (self.folder / name).mkdir(parents=True)
        _write_json(self.folder / "systems" / f"{submission.system}.json", submission.description)
        _write_text(self.folder / "documentation" / "calibration.md", submission.calibration_page)
        write_snapshot(submission.source, submission.commit, self.folder / "src")
        for scenario, runs in submission.runs.items():
            self._write_scenario(scenario, runs)

    def _write_scenario(self, scenario: Scenario, runs: Mapping[RunKind, RecordedRun]) -> None:
        name = SCENARIO_FOLDERS[scenario]
        place = Path("results", self.submission.system, BENCHMARK.name, name)
        folder, kept = self.folder / place, self.originals / place
        folder.mkdir(parents=True)
        _write_json(folder / "measurements.json", self.submission.measurements[scenario])
        _write_text(folder / "README.md", scenario_readme(name, runs, self.submission.notes))
        shutil.copyfile(
            runs[RunKind.PERFORMANCE].directory / log_files.USER_CONF, folder / log_files.USER_CONF
        )
        _copy_logs(runs[RunKind.PERFORMANCE], folder / "performance" / "run_1")
        accuracy = runs[RunKind.ACCURACY]
        _copy_logs(accuracy, folder / "accuracy")
        log_sha256 = _copy_accuracy_log(accuracy, folder / "accuracy", kept / "accuracy")
        score = (accuracy.directory / log_files.ACCURACY_TEXT).read_text(encoding="utf-8").rstrip("\n")
        _write_text(folder / "accuracy" / log_files.ACCURACY_TEXT, f"{score}\n\nhash={log_sha256}\n")
        for kind, verify_name in VERIFY_FILES.items():
            if kind in runs:
                _write_test(runs[kind], verify_name, folder / kind, kept / kind)


def _write_test(run: RecordedRun, verify_name: str, folder: Path, kept: Path) -> None:
    """Write the folder of one compliance test."""
    _copy_logs(run, folder / "performance" / "run_1")
    shutil.copyfile(run.directory / verify_name, folder / verify_name)
    log_sha256 = _copy_accuracy_log(run, folder / "accuracy", kept / "accuracy")
    _write_text(folder / "accuracy" / log_files.ACCURACY_TEXT, f"hash={log_sha256}\n")


def _copy_logs(run: RecordedRun, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in _TEXT_LOGS:
        shutil.copyfile(run.directory / name, folder / name)


def _copy_accuracy_log(run: RecordedRun, folder: Path, kept: Path) -> str:
    for directory in (folder, kept):
        directory.mkdir(parents=True, exist_ok=True)
    log = run.directory / log_files.ACCURACY
    log_sha256 = copy_and_truncate(log, kept / log_files.ACCURACY, folder / log_files.ACCURACY)
    if log_sha256 != run.value("files_sha256", log_files.ACCURACY):
        raise FlagError(RESULTS_FLAG, "has changed while it was copied", log)
    return log_sha256


def _write_json(path: Path, values: Mapping[str, str]) -> None:
    _write_text(path, json.dumps(dict(values), indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Write UTF-8 in every locale."""
    path.write_text(text, encoding="utf-8")
