"""The table of a campaign's phases: redrawn on a terminal, one line for each change elsewhere."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from common.text import printable

REDRAW_S = 1.0
MAX_NOTE_LEN = 60
UNKNOWN = "-"


class PhaseState(StrEnum):
    """State of a phase."""

    WAITING = "waiting"
    LOADING = "loading"
    RUNNING = "running"
    GRADING = "grading"
    DONE = "done"
    KEPT = "kept"
    FAILED = "failed"
    STOPPED = "stopped"


_FINISHED = (PhaseState.DONE, PhaseState.KEPT)
_IN_PROGRESS = (PhaseState.LOADING, PhaseState.RUNNING, PhaseState.GRADING)


@dataclass(slots=True)
class Phase:
    """One row."""

    name: str
    group: str
    num_samples: int | None
    expected_s: float | None
    state: PhaseState = PhaseState.WAITING
    note: str = ""
    started_s: float | None = None
    """When its current state began, by the monotonic clock."""
    took_s: float | None = None

    def change(self, state: PhaseState, note: str = "", took_s: float | None = None) -> None:
        """Begin a state."""
        self.state, self.note = state, note
        self.started_s = time.monotonic()
        self.took_s = self.took_s if took_s is None else took_s

    @property
    def elapsed_s(self) -> float | None:
        """Time since its current state began; None unless it is in progress."""
        in_progress = self.state in _IN_PROGRESS and self.started_s is not None
        return time.monotonic() - (self.started_s or 0.0) if in_progress else None

    @property
    def left_s(self) -> float:
        """Estimated time to its end, in seconds."""
        if self.state in _FINISHED or self.expected_s is None:
            return 0.0
        if self.state is PhaseState.RUNNING and self.started_s is not None:
            return max(self.expected_s - (time.monotonic() - self.started_s), 0.0)
        return self.expected_s


class PhaseTable:
    """All phases of a campaign."""

    def __init__(self, phases: Sequence[Phase]) -> None:
        """Take the phases in their order."""
        self.phases = tuple(phases)
        self._by_name = {phase.name: phase for phase in phases}
        self._live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._num_drawn = 0
        self._next_s = 0.0

    def change(self, name: str, state: PhaseState, note: str = "", took_s: float | None = None) -> None:
        """Begin a state of one phase and show it."""
        phase = self._by_name[name]
        shown = (phase.state, phase.note)
        phase.change(state, printable(note, MAX_NOTE_LEN), took_s)
        if self._live:
            self._draw()
        elif shown != (phase.state, phase.note):
            left = f"; about {format_duration(self.left_s)} left" if self.left_s else ""
            self._write(f"{time.strftime('%H:%M:%S')} {name}: {state} {phase.note}".rstrip() + left)

    def say(self, text: str) -> None:
        """Show a line that stays."""
        self._erase()
        self._write(printable(text, 1000))
        if self._live:
            self._draw()

    def tick(self) -> None:
        """Redraw from time to time."""
        if self._live and time.monotonic() >= self._next_s:
            self._draw()

    def stop(self) -> list[str]:
        """End the phases that are in progress, which is none of a campaign that is complete; names them."""
        stopped = [phase for phase in self.phases if phase.state in _IN_PROGRESS]
        for phase in stopped:
            phase.change(PhaseState.STOPPED, took_s=phase.elapsed_s)
        return [phase.name for phase in stopped]

    def close(self) -> None:
        """Leave the final table on the screen."""
        if self._live:
            self._draw()
        else:
            self._write("\n".join(self.lines()))

    @property
    def left_s(self) -> float:
        """Estimated time to the end of all runs, in seconds."""
        return sum(phase.left_s for phase in self.phases)

    def lines(self) -> list[str]:
        """Format the table."""
        cells = ("run", "workers", "state", "samples", "expected", "took", "result")
        rows = [_row(cells), *(_row(_cells(phase)) for phase in self.phases)]
        done = sum(phase.state in _FINISHED for phase in self.phases)
        left = f", about {format_duration(self.left_s)} left" if self.left_s else ""
        return [*rows, f"{done} of {len(self.phases)} done{left}"]

    def _draw(self) -> None:
        self._erase()
        lines = self.lines()
        self._write("\n".join(lines))
        self._num_drawn = len(lines)
        self._next_s = time.monotonic() + REDRAW_S

    def _erase(self) -> None:
        if self._num_drawn:
            # Move to the first line of the table and clear to the end of the screen (ECMA-48).
            sys.stdout.write(f"\x1b[{self._num_drawn}F\x1b[J")
            self._num_drawn = 0

    def _write(self, text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


def _cells(phase: Phase) -> tuple[str, ...]:
    took_s = phase.took_s if phase.elapsed_s is None else phase.elapsed_s
    return (
        phase.name,
        phase.group,
        phase.state,
        UNKNOWN if phase.num_samples is None else f"{phase.num_samples:,}",
        UNKNOWN if phase.expected_s is None else format_duration(phase.expected_s),
        UNKNOWN if took_s is None else format_duration(took_s),
        phase.note,
    )


def _row(cells: tuple[str, ...]) -> str:
    name, group, state, samples, expected, took, note = cells
    return f"{name:<24} {group[:20]:<20} {state:<8} {samples:>9} {expected:>9} {took:>9}  {note}".rstrip()


def format_duration(seconds: float) -> str:
    """Format a duration: 45 s, 12 min, 3 h 05 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"
