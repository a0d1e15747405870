"""Finds a LoadGen test that cannot end, because its log files do not grow or their disk does not answer."""

import contextlib
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from common.idle_timer import IdleTimer
from common.signals import SIGNAL_POLL_S

LOOK_INTERVAL_S = 0.5


class LogSizes(NamedTuple):
    """Sizes of LoadGen's log files at one moment."""

    num_looks: int
    """Number of times that the file system has answered."""
    sizes: tuple[tuple[str, int, int], ...]
    """Name, bytes and disk blocks of each file: blocks grow while a network disk writes its cache out."""


class LogGrowth:
    """Watches LoadGen's log files within a `with` block.

    A thread looks at them; it hangs with their file system. A look also updates the time of the directory,
    which a file system refuses or delays that takes no writes.
    """

    def __init__(self, log_dir: Path, timeout_s: float) -> None:
        """Prepare; watching begins with the block.

        Args:
            log_dir: LoadGen's output directory.
            timeout_s: Time without progress after which the test cannot end.
        """
        self._log_dir = log_dir
        self._timeout_s = timeout_s
        self._since_growth = IdleTimer(SIGNAL_POLL_S)
        self._since_answer = IdleTimer(SIGNAL_POLL_S)
        self._ended = threading.Event()
        self._found = self._last = LogSizes(0, ())

    def __enter__(self) -> Self:
        threading.Thread(target=self._look_repeatedly, name="log growth", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop watching; does not wait."""
        self._ended.set()

    def find_stall(self, *, idle: bool, complete: bool) -> str | None:
        """Return why the test cannot end; None if it may. Called every SIGNAL_POLL_S.

        Args:
            idle: Every query that LoadGen has issued is complete. It may issue more.
            complete: LoadGen will issue no more queries. It still writes its logs.

        Thread: main; does not block.
        """
        found, last = self._found, self._last
        self._last = found
        answered = found.num_looks > last.num_looks
        if not idle or answered:
            self._since_answer.mark_active()
        if not idle or not complete or found.sizes != last.sizes:
            self._since_growth.mark_active()
        self._since_answer.tick()
        if answered:
            # Without an answer nobody knows whether the logs grow.
            self._since_growth.tick()
        if self._since_answer.idle_s >= self._timeout_s:
            what = "the file system does not answer"
        elif self._since_growth.idle_s >= self._timeout_s:
            what = "the logs do not grow"
        else:
            return None
        return f"{self._log_dir}: {what} for {self._timeout_s:g} s after the last completion"

    def _look_repeatedly(self) -> None:
        """Thread: log growth."""
        while not self._ended.wait(LOOK_INTERVAL_S):
            with contextlib.suppress(OSError):
                self._found = LogSizes(self._found.num_looks + 1, self._look())

    def _look(self) -> tuple[tuple[str, int, int], ...]:
        paths = sorted(self._log_dir.glob("*mlperf_log_*"))
        facts = [(path.name, path.stat()) for path in paths]
        os.utime(self._log_dir)
        return tuple((name, found.st_size, found.st_blocks) for name, found in facts)
