"""Reads run.json of any age: what is missing or of another type is not known."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from common.json_document import JsonObject, as_list, as_mapping, entry
from sut.log_files import RECORD, read_record
from sut.results.report.markup import Number
from sut.results.verdict import Outcome

MAX_ENTRIES = 1000
"""Entries of a list that are read: a loss, a pause or a worker each."""


class RunJson:
    """Content of one run's run.json."""

    def __init__(self, content: Mapping[str, object]) -> None:
        """Take the content."""
        self._content = content

    @classmethod
    def read(cls, run_dir: Path) -> Self:
        """Read the file of a run that has ended.

        Raises:
            ValueError: Names the directory: it is no run's, or the run has not ended.
        """
        path = run_dir / RECORD
        try:
            content = read_record(run_dir)
        except OSError as error:
            raise ValueError(f"{run_dir}: not the directory of a run: {RECORD}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if "run_id" not in content or "verdict" not in content:
            raise ValueError(f"{path}: was not written by a run: it has no run_id or no verdict")
        record = cls(content)
        if record.get("verdict", "outcome") == Outcome.UNFINISHED:
            raise ValueError(f"{path}: the run has not ended: its verdict is {Outcome.UNFINISHED}")
        return record

    def get(self, *path: str | int) -> object:
        """Return the value at a path; None if there is none."""
        return entry(self._content, *path)

    def number(self, *path: str | int) -> Number:
        """Return the value at a path with its place."""
        return Number(self.get(*path), f"{RECORD}#/" + "/".join(map(str, path)))

    def text(self, *path: str | int) -> str:
        """Return the text at a path; empty if there is none."""
        value = self.get(*path)
        return "" if value is None else str(value)

    def names(self, *path: str | int) -> list[str]:
        """List the keys of the object at a path."""
        return [str(key) for key in as_mapping(self.get(*path))][:MAX_ENTRIES]

    def entries(self, *path: str | int) -> Iterator[tuple[int, JsonObject]]:
        """List the objects of the list at a path with their index, at most MAX_ENTRIES."""
        for index, part in enumerate(as_list(self.get(*path))[:MAX_ENTRIES]):
            if isinstance(part, Mapping):
                yield index, part

    def num_entries(self, *path: str | int) -> int:
        """Return the length of the list at a path; 0 if there is none."""
        return len(as_list(self.get(*path)))
