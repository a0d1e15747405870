"""Progress lines of a run on standard error, where no live view is drawn."""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

import numpy as np

from coordinator.recording.answer_lengths import estimate_remaining_s
from coordinator.recording.issue_lateness import IssueLateness
from coordinator.recording.recent_rate import RATE_WINDOW_S, RecentRate
from coordinator.scheduling.event_loop import ActiveRun
from coordinator.scheduling.request_columns import ttft_ns
from sut.results.timing.spread import percentile

LINE_INTERVAL_S = 10.0
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
    """Prints a line every 10 s.

    The counts come from the event loop's thread and may change while they are read, by a request or two.
    """

    def __init__(
        self,
        run: ActiveRun,
        count_expected: Callable[[], int | None],
        lateness: IssueLateness,
        out: TextIO | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the clock.

        Args:
            run: Its counts are read.
            count_expected: Returns the number of requests of the whole run, None if it is not known yet.
            lateness: Lateness of LoadGen's issue thread.
            out: Receives the lines; None: stderr.
            now_s: The clock.
        """
        self._run = run
        self._count_expected = count_expected
        self._lateness = lateness
        self._out = sys.stderr if out is None else out
        self._now_s = now_s
        self._start_s = now_s()
        self._next_s = self._start_s + LINE_INTERVAL_S
        self._tokens = RecentRate(self._start_s)

    def tick(self) -> None:
        """Print if a line is due; called at least once a second.

        Thread: main.
        """
        now_s = self._now_s()
        self._tokens.add(now_s, self._run.scheduler.table.num_tokens)
        if now_s < self._next_s:
            return
        self._next_s = now_s + LINE_INTERVAL_S
        self._print(f"{self.line()}\n")

    def _print(self, text: str) -> None:
        """Write; a closed pipe or a full disk must not end the run."""
        with contextlib.suppress(OSError):
            self._out.write(text)
            self._out.flush()

    def line(self) -> str:
        """Compose the plain line."""
        scheduler, fleet = self._run.scheduler, self._run.fleet
        table, now_s = scheduler.table, self._now_s()
        first_ns = np.concatenate([ttft_ns(table.done), ttft_ns(table.rows(table.held()[0]))])
        expected, elapsed_s = self._count_expected(), now_s - self._start_s
        left_s = estimate_remaining_s(scheduler, expected, self._tokens.per_s, elapsed_s)
        parts = (
            f"done {table.num_done}" + (f"/{expected}" if expected else ""),
            "ETA " + ("?" if left_s is None else f"{math.ceil(left_s)} s"),
            f"in flight {table.num_in_flight}",
            f"waiting {scheduler.num_waiting}",
            f"{self._tokens.per_s:,.0f} tokens/s",
            f"first tokens {len(first_ns)}",
            f"TTFT p99 {_ms(percentile(first_ns, 0.99)) if len(first_ns) else '?'} from issue",
            f"issue up to {_ms(self._lateness.worst_ns(RATE_WINDOW_S))} late",
            f"workers {len(fleet.live)}/{len(fleet.links)}",
        )
        return f"[{elapsed_s:6.0f} s] {', '.join(parts)}"


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / 1e6:,.0f} ms"
