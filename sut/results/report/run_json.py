"""Reads run.json of any age: what is missing or of another type is not known."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from common.bounded_file import parse_json, read_bounded
from sut.log_files import MAX_RECORD_BYTES, RECORD
from sut.results.report.markup import Number
from sut.results.verdict import Outcome

TTFT_LIMIT = "result_first_token_99.00_percentile_latency_ns"
TPOT_LIMIT = "result_time_per_output_token_99.00_percentile_ns"
"""LoadGen's figures whose bounds are the latency limits of a run."""
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
            content = parse_json(read_bounded(path, MAX_RECORD_BYTES))
        except OSError as error:
            raise ValueError(f"{run_dir}: not the directory of a run: {RECORD}: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"{path}: is no JSON text: {error}") from error
        if not isinstance(content, dict) or "run_id" not in content or "verdict" not in content:
            raise ValueError(f"{path}: was not written by a run: it has no run_id or no verdict")
        record = cls(content)
        if record.get("verdict", "outcome") == Outcome.UNFINISHED:
            raise ValueError(f"{path}: the run has not ended: its verdict is {Outcome.UNFINISHED}")
        return record

    def get(self, *path: str | int) -> object:
        """Return the value at a path; None if there is none."""
        value: object = self._content
        for key in path:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and isinstance(key, int) and -len(value) <= key < len(value):
                value = value[key]
            else:
                return None
        return value

    def number(self, *path: str | int) -> Number:
        """Return the value at a path with its place."""
        return Number(self.get(*path), f"{RECORD}#/" + "/".join(map(str, path)))

    def text(self, *path: str | int) -> str:
        """Return the text at a path; empty if there is none."""
        value = self.get(*path)
        return "" if value is None else str(value)

    def names(self, *path: str | int) -> list[str]:
        """List the keys of the object at a path."""
        value = self.get(*path)
        return [str(key) for key in value][:MAX_ENTRIES] if isinstance(value, dict) else []

    def entries(self, *path: str | int) -> Iterator[tuple[int, dict[str, object]]]:
        """List the objects of the list at a path with their index, at most MAX_ENTRIES."""
        value = self.get(*path)
        for index, entry in enumerate(value[:MAX_ENTRIES] if isinstance(value, list) else []):
            if isinstance(entry, dict):
                yield index, entry

    def num_entries(self, *path: str | int) -> int:
        """Return the length of the list at a path; 0 if there is none."""
        value = self.get(*path)
        return len(value) if isinstance(value, list) else 0
