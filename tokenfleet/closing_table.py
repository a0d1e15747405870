"""The table after several runs of one call: outcome, rate and directory of each."""

from pathlib import Path
from typing import NamedTuple

from common.json_document import JsonObject, as_number, entry
from common.text import print_table, printable
from sut.log_files import RECORD, read_record
from sut.results.loadgen_figures import TOKEN_RATES

MAX_TEXT_LEN = 40
MAX_PATH_LEN = 4096
UNKNOWN = "-"


class FileVersion(NamedTuple):
    """Tells a file from the one that replaces it, whatever the system clock does."""

    inode: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileVersion | None":
        """Describe a file; None if there is none."""
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_ino, found.st_mtime_ns)


class EndedRun(NamedTuple):
    """One run of the call."""

    scenario: str
    run_dir: Path
    code: int
    """Exit code of its coordinator."""
    earlier: FileVersion | None
    """The run.json that was there before its coordinator was started."""

    def has_begun(self) -> bool:
        """Return whether run.json is of this run, not of an earlier one in the same directory."""
        found = FileVersion.of(self.run_dir / RECORD)
        return found is not None and found != self.earlier


def show(runs: list[EndedRun]) -> None:
    """Print the table if there are several runs; what cannot be printed is in each run.json."""
    if len(runs) > 1:
        print_table(format_runs(runs))


def format_runs(runs: list[EndedRun]) -> str:
    """Format one line for each run."""
    cells = ("scenario", "mode", "outcome", "tokens/s", "exit code", "results")
    return "\n".join([f"== {len(runs)} runs ==", _line(cells), *(_line(_cells_of(run)) for run in runs)])


def _cells_of(run: EndedRun) -> tuple[str, ...]:
    record = _read(run)
    rates = (as_number(entry(record, "loadgen", key)) for key in TOKEN_RATES)
    rate = next((f"{rate:,.2f}" for rate in rates if rate is not None), UNKNOWN)
    outcome = entry(record, "verdict", "outcome") or ("unreadable" if run.has_begun() else "not begun")
    place = str(run.run_dir.absolute()) if record else UNKNOWN
    return run.scenario, str(record.get("mode", UNKNOWN)), str(outcome), rate, str(run.code), place


def _read(run: EndedRun) -> JsonObject:
    """Read run.json; empty if the run has not begun, or if its record cannot be read."""
    try:
        if not run.has_begun():
            return {}
        return read_record(run.run_dir)
    except (OSError, ValueError):
        return {}


def _line(cells: tuple[str, ...]) -> str:
    *texts, rate, code, place = (printable(cell, MAX_PATH_LEN) for cell in cells)
    left = "".join(f"{text[:MAX_TEXT_LEN]:<14}" for text in texts)
    return f"   {left}{rate:>12}{code:>11}  {place}"
