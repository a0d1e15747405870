"""Store each verdict in a log, so that interrupted grading resumes.

Each line is a JSON object. Its key is a digest of everything that decides the verdict. Only `passed` and
`failed` are reused. A torn or damaged line is skipped, and its program is graded again.
"""

import fcntl
import hashlib
import json
import os
import platform
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from sut.results.code_grading.attempt import Ending
from sut.results.code_grading.program import GradingLogError, GradingOptions, Program, ProgramOutcome
from sut.results.code_grading.questions import Question

_FINAL = (ProgramOutcome.PASSED, ProgramOutcome.FAILED)


class VerdictKeys:
    """Digests of what decides a verdict: program, tests, limits, the code of this package, Python version."""

    def __init__(self, options: GradingOptions) -> None:
        same_for_all = (
            repr(options.limits),
            options.sandboxed,
            _code_sha256(),
            platform.python_version(),
        )
        self._prefix = json.dumps(same_for_all)

    def key(self, program: Program, question: Question) -> str:
        """Return the digest for one program."""
        content = json.dumps([self._prefix, question.sha256, program.source])
        return hashlib.sha256(content.encode()).hexdigest()


def _code_sha256() -> str:
    """Hash the modules of this package: sandbox, process filter, runner and comparison decide verdicts."""
    modules = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(module.read_bytes() for module in modules)).hexdigest()


class GradingLog:
    """An open log of verdicts; threads may add to it at the same time."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise GradingLogError(f"{path.name}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._endings = _read_endings(path)
            self._end_torn_line()
        except BlockingIOError as error:
            os.close(self._fd)
            raise GradingLogError(f"{path.name}: another process is grading into it") from error
        except OSError as error:
            os.close(self._fd)
            raise GradingLogError(f"{path.name}: {error.strerror}") from error
        self._name = path.name
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Keep the log open until the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the log."""
        os.close(self._fd)

    def find(self, key: str) -> Ending | None:
        """Return the final verdict of an earlier attempt."""
        return self._endings.get(key)

    def add(self, key: str, program: Program, ending: Ending, duration_s: float) -> None:
        """Append a verdict; after the write it survives the end of this process.

        Raises:
            GradingLogError: The line cannot be written whole.
        """
        entry = {
            "key": key,
            "question_id": program.question_id,
            "outcome": ending.outcome,
            "reason": ending.reason,
            "duration_s": round(duration_s, 3),
            "python_version": platform.python_version(),
        }
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            if ending.outcome in _FINAL:
                self._endings[key] = ending
            try:
                is_whole = os.write(self._fd, line) == len(line)
            except OSError as error:
                raise GradingLogError(f"{self._name}: {error.strerror}") from error
            if not is_whole:
                raise GradingLogError(f"{self._name}: the disk took a part of a line only")

    def _end_torn_line(self) -> None:
        size = os.fstat(self._fd).st_size
        if size and os.pread(self._fd, 1, size - 1) != b"\n":
            os.write(self._fd, b"\n")


def _read_endings(path: Path) -> dict[str, Ending]:
    endings = {}
    with path.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
                ending = Ending(ProgramOutcome(entry["outcome"]), str(entry["reason"]))
                key = str(entry["key"])
            except (LookupError, RecursionError, TypeError, ValueError):
                continue
            if ending.outcome in _FINAL:
                endings[key] = ending
    return endings
