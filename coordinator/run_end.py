"""The end of a run: whether it has come, why the run failed, and how long leaving may take."""

import threading
from typing import NamedTuple

from sut.results.verdict import Outcome


class LeaveLimits(NamedTuple):
    """Time limits of the fatal exit, in seconds."""

    total_s: float
    salvage_s: float
    write_s: float
    """For each of the other files."""
    report_s: float
    """For the report; 0: none is written."""


# The user waits, or the disk is known not to answer.
SHORT_LIMITS = LeaveLimits(total_s=8.0, salvage_s=3.0, write_s=2.0, report_s=0.0)
LONG_LIMITS = LeaveLimits(total_s=150.0, salvage_s=100.0, write_s=30.0, report_s=30.0)


class RunEnd:
    """Whether the run is over, and why it failed if it did; the first reason counts."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._disk_hangs = False

    @property
    def failure(self) -> str | None:
        """Why the run failed; None if it did not."""
        return self._failure

    def limits(self, outcome: Outcome) -> LeaveLimits:
        """Return the time limits of the fatal exit."""
        return SHORT_LIMITS if outcome is Outcome.INTERRUPTED or self._disk_hangs else LONG_LIMITS

    def fail(self, reason: str) -> None:
        """End the run.

        Thread: any.
        """
        with self._lock:
            if self._failure is None:
                self._failure = reason
        self._ended.set()

    def fail_disk(self, reason: str) -> None:
        """End the run because the disk of its directory does not answer.

        Thread: main.
        """
        self._disk_hangs = True
        self.fail(reason)

    def fail_issue(self, error: BaseException) -> None:
        """End the run because a query could not be taken.

        Thread: LoadGen's.
        """
        self.fail(f"issue: {error!r}")

    def complete(self) -> None:
        """Note that LoadGen's test has ended.

        Thread: LoadGen's.
        """
        self._ended.set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end; False if it has not come."""
        return self._ended.wait(timeout_s)
