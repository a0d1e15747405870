"""The directory of a search: its lock, and find_qps.json with the runs that have begun."""

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from common.atomic_files import replace_files
from common.bounded_file import read_bounded
from common.flags import FlagError
from common.json_document import parse_json
from tokenfleet.find_qps.rate_search import RunLengthKind
from tokenfleet.find_qps.search_plan import PlannedSearchRun, SearchPlan

STATE_NAME = "find_qps.json"
LOCK_NAME = "find_qps.lock"
FORMAT = 1


class SearchDir:
    """The directory of a search, locked; a context manager. Two searches never share one."""

    def __init__(self, path: Path) -> None:
        """Create the directory and lock it.

        Raises:
            FlagError: It cannot be written, or another search uses it.
        """
        try:
            (path / "logs").mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (path / LOCK_NAME).open("a")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._lock.close()
            raise FlagError("--output-dir", f"{path} belongs to a search that has not ended") from error
        except OSError as error:
            raise FlagError("--output-dir", f"{path}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()


class SearchState:
    """Content of find_qps.json; every change is written before the method returns.

    What a run achieved is in the run's own directory.
    """

    def __init__(self, plan: SearchPlan) -> None:
        """Take over what an earlier start of the search left.

        Raises:
            FlagError: The directory holds a search with other flags or files.
        """
        self._directory = plan.directory
        self._identity = plan.identity
        self.runs: list[PlannedSearchRun] = []
        """Runs that have begun, in order."""
        path = plan.directory / STATE_NAME
        if not path.exists():
            return
        try:
            self._take_over(parse_json(read_bounded(path)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, FlagError):
                raise
            raise FlagError("--output-dir", f"cannot be continued: {error!r}", path) from error

    def _take_over(self, known: Any) -> None:
        identity = json.loads(json.dumps(self._identity, default=str))
        names = sorted(identity.keys() | known["flags"].keys())
        missing = object()
        changed = [name for name in names if identity.get(name, missing) != known["flags"].get(name, missing)]
        if changed:
            reason = (
                f"holds a search with another {', '.join(changed)}; give the same, or another --output-dir"
            )
            raise FlagError("--output-dir", reason, self._directory)
        self.runs = [
            PlannedSearchRun(int(run["number"]), RunLengthKind(run["kind"]), float(run["target_qps"]))
            for run in known["runs"]
        ]

    def begin(self, run: PlannedSearchRun) -> None:
        """Note a run before it begins."""
        self.runs.append(run)
        self.write({})

    def write(self, end: Mapping[str, object]) -> None:
        """Write the file whole or not at all.

        Args:
            end: How the search ended; empty before.
        """
        content = {
            "format": FORMAT,
            "flags": self._identity,
            "runs": [run._asdict() for run in self.runs],
            **end,
        }
        replace_files(self._directory, {STATE_NAME: json.dumps(content, indent=1, default=str) + "\n"})
