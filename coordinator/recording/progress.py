"""Progress lines of a run on standard error."""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from coordinator.recording.run_record import percentile
from coordinator.scheduling.event_loop import ActiveRun

LINE_INTERVAL_S = 10.0
BAR_INTERVAL_S = 0.5
BAR_WIDTH = 24
READ_INTERVAL_S = 0.5


class ExpectedSamples:
    """Number of samples of the whole run, which LoadGen writes to its log soon after the test has begun.

    The log is read on another thread: a disk that hangs must not stop the main thread.
    """

    def __init__(self, read: Callable[[], int | None]) -> None:
        """Prepare; reading begins with the `with` block.

        Args:
            read: Reads the log; None as long as the number is not in it.
        """
        self._read = read
        self._found: int | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._poll, name="expected samples", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop reading; does not wait."""
        self._ended.set()

    def get(self) -> int | None:
        """Return the number, None if it is not known yet.

        Thread: any; does not block.
        """
        return self._found

    def _poll(self) -> None:
        while self._found is None and not self._ended.wait(READ_INTERVAL_S):
            with contextlib.suppress(OSError):
                self._found = self._read()


class Progress:
    """A live bar on a terminal, a plain line every 10 s elsewhere."""

    def __init__(
        self, run: ActiveRun, count_expected: Callable[[], int | None], out: TextIO | None = None
    ) -> None:
        """Start the clock.

        Args:
            run: Its counts are read; they are snapshots.
            count_expected: Returns the number of requests of the whole run, None if it is not known yet.
            out: Receives the lines; None: stderr.
        """
        self._run = run
        self._count_expected = count_expected
        self._expected: int | None = None
        self._out = sys.stderr if out is None else out
        self._live = self._out.isatty()
        self._start_s = time.monotonic()
        self._interval_s = BAR_INTERVAL_S if self._live else LINE_INTERVAL_S
        self._next_s = self._start_s + self._interval_s
        self._last_tokens, self._last_s = 0, self._start_s

    def tick(self) -> None:
        """Print if a line is due.

        Thread: main.
        """
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + self._interval_s
            self._print(f"\r\x1b[K{self.line()} {self._bar()}" if self._live else f"{self.line()}\n")

    def end(self) -> None:
        """Move a terminal to a new line."""
        if self._live:
            self._print("\n")

    def _print(self, text: str) -> None:
        """Write; a closed pipe or a full disk must not end the run."""
        with contextlib.suppress(OSError):
            self._out.write(text)
            self._out.flush()

    def line(self) -> str:
        """Compose the plain line."""
        self._expected = self._expected or self._count_expected()
        table, now_s = self._run.scheduler.table, time.monotonic()
        rate = (table.num_tokens - self._last_tokens) / max(now_s - self._last_s, 1e-9)
        self._last_tokens, self._last_s = table.num_tokens, now_s
        done = table.done
        first = done["first_ns"] > 0
        p99_ms = percentile((done["first_ns"] - done["issued_ns"])[first], 0.99) / 1e6
        of = f"/{self._expected}" if self._expected else ""
        fleet = self._run.fleet
        return (
            f"[{now_s - self._start_s:6.0f} s] done {len(done)}{of}, running {table.num_running}, "
            f"{rate:,.0f} tokens/s, p99 TTFT {p99_ms:,.0f} ms, ETA {self._eta(len(done), now_s)}, "
            f"workers {len(fleet.live)}/{len(fleet.links)}"
        )

    def _bar(self) -> str:
        if not self._expected:
            return ""
        filled = min(BAR_WIDTH * self._run.scheduler.table.num_done // self._expected, BAR_WIDTH)
        return f"|{'#' * filled}{'-' * (BAR_WIDTH - filled)}| "

    def _eta(self, num_done: int, now_s: float) -> str:
        if not num_done or not self._expected:
            return "?"
        left_s = (now_s - self._start_s) * (self._expected - num_done) / num_done
        return f"{math.ceil(max(left_s, 0))} s"
