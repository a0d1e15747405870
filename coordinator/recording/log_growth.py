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
        self._timer = IdleTimer(SIGNAL_POLL_S)
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
        found = self._found
        answers = found.num_looks > self._last.num_looks
        if not idle or found.sizes != self._last.sizes or (answers and not complete):
            self._timer.mark_active()
        self._last = found
        self._timer.tick()
        if self._timer.idle_s < self._timeout_s:
            return None
        what = "the logs do not grow" if complete and answers else "the file system does not answer"
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
