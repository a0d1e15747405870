"""A program of an answer, what grading it needs, and the verdict on it."""

import os
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class ProgramOutcome(StrEnum):
    """What the tests of a question say of a program."""

    PASSED = "passed"
    """The program passed every test."""
    FAILED = "failed"
    """The program's own doing: wrong output, an exception, a crash, or more time than a test allows."""
    UNGRADED = "ungraded"
    """The sandbox, the file of tests or the grader failed, or a limit of the sandbox ended the program."""


class Program(NamedTuple):
    """One program to grade."""

    row: int
    """Row of the data set; verdicts carry it, since they arrive in the order in which programs end."""
    question_id: str
    source: str
    """Python source as it was extracted from the answer."""


class ProgramVerdict(NamedTuple):
    """The verdict on one program."""

    row: int
    outcome: ProgramOutcome
    reason: str
    """One printable line; empty if the program passed."""


@dataclass(frozen=True, slots=True)
class ProgramLimits:
    """Limits of one program; what exceeds them, time per test excepted, is ungraded, not wrong."""

    test_timeout_s: float = 60.0
    """Wall-clock time of one test, as officially; the only limit that makes a program wrong."""
    memory_bytes: int = 4 << 30
    """Address space."""
    output_bytes: int = 64 << 20
    """Output of one test."""
    disk_bytes: int = 256 << 20
    """Size of the temporary folder, and of one file."""
    num_threads: int = 512
    """Threads, as far as the kernel counts them: not those of root. Processes cannot be started at all."""
    num_open_files: int = 256


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class GradingOptions:
    """How programs are run."""

    num_parallel: int = field(default_factory=_usable_cores)
    """Programs that run at the same time."""
    sandboxed: bool = True
    """False runs programs as plain processes: limits apply, but files and network are open to them."""
    limits: ProgramLimits = ProgramLimits()


class GradingError(Exception):
    """Programs cannot be graded at all; the message is one line for the user."""


class QuestionFileError(GradingError):
    """The file of tests cannot be used."""


class GradingLogError(GradingError):
    """The log of verdicts cannot be used."""


class SandboxUnavailableError(GradingError):
    """Programs cannot be run in a sandbox on this machine, or not at all."""
