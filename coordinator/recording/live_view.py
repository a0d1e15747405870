"""The live view of a run on a terminal, drawn once a second by a thread of its own."""

import logging
import os
import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from coordinator.recording.run_snapshot import (
    FollowedRun,
    RunFollower,
    RunPhase,
    Snapshot,
    WorkerFigures,
    waiting_workers,
)
from coordinator.recording.status_line import StatusLine
from coordinator.transport.fleet import Fleet

if TYPE_CHECKING:
    from coordinator.recording.live_screen import Screen

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
CLOSE_TIMEOUT_S = 1.0
DUMB_TERMINALS = ("dumb", "unknown")
"""Values of TERM of terminals that cannot move their cursor."""


def view_terminal(*, is_wanted: bool) -> TextIO | None:
    """Return stderr if a live view is wanted and can be drawn there, otherwise None."""
    is_dumb = os.environ.get("TERM") in DUMB_TERMINALS
    return sys.stderr if is_wanted and not is_dumb and sys.stderr.isatty() else None


class LiveView:
    """Shows a run within a `with` block: what it knows so far, from the phase in which it waits for workers.

    The thread only reads what others count, and writes to a stream that does not block. If it fails, the
    run goes on without it.
    """

    def __init__(self, title: str, terminal: TextIO | None) -> None:
        """Prepare; nothing is written yet.

        Args:
            title: Scenario and mode.
            terminal: Where to draw; None: nothing is drawn.
        """
        self._title = title
        self._status = None if terminal is None else StatusLine(terminal)
        self._phase = RunPhase.WAITING
        self._phase_began_s = time.monotonic()
        self._fleet: Fleet | None = None
        self._follower: RunFollower | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live view", daemon=True)

    @property
    def is_on(self) -> bool:
        """Whether the view is drawn; a run without it prints lines instead."""
        return self._thread.is_alive()

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.__enter__()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Erase the view; further calls do nothing.

        Thread: main; blocks for at most CLOSE_TIMEOUT_S.
        """
        if self._status is not None and not self._ended.is_set():
            self._ended.set()
            self._thread.join(CLOSE_TIMEOUT_S)
            self._status.__exit__(None, None, None)

    def show(self, phase: RunPhase) -> None:
        """Show a phase from now on."""
        self._phase, self._phase_began_s = phase, time.monotonic()

    def watch(self, fleet: Fleet) -> None:
        """Show these workers."""
        self._fleet = fleet

    def follow(self, run: FollowedRun) -> None:
        """Show the figures of a test, which begins now."""
        self._follower = RunFollower(run)
        self.show(RunPhase.TEST)

    def _run(self) -> None:
        """Thread: live view."""
        assert self._status is not None
        try:
            # Imports rich.
            from coordinator.recording.live_screen import Screen

            screen = Screen()
            while not self._ended.wait(INTERVAL_S):
                self._draw(self._status, screen)
        except Exception:
            self._status.show([])
            logger.exception("the live view failed; lines follow instead")

    def _draw(self, status: StatusLine, screen: "Screen") -> None:
        columns, lines = status.size()
        if not self._ended.is_set():
            status.show(screen.lines(self._snapshot(), columns - 1, lines - 1))

    def _snapshot(self) -> Snapshot:
        follower = self._follower
        return Snapshot(
            title=self._title,
            phase=self._phase,
            phase_s=time.monotonic() - self._phase_began_s,
            workers=self._workers(),
            run=follower.figures() if follower is not None and self._phase is RunPhase.TEST else None,
        )

    def _workers(self) -> list[WorkerFigures]:
        if self._follower is not None:
            return self._follower.workers()
        return [] if self._fleet is None else waiting_workers(self._fleet.links)
