"""The live line: what it counts, how it is smoothed, and that it takes nothing from a run."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import coordinator.recording.progress
from coordinator.recording.issue_lateness import IssueLateness
from coordinator.recording.progress import Progress
from tests.coordinator.recording.handmade_requests import HandmadeScheduler

MS = 1_000_000


class SimulatedRun:
    """Requests that are answered by hand, a clock, and the progress over both."""

    def __init__(self, num_issued: int, expected: int) -> None:
        """Issue requests that wait for a worker."""
        self.now_s = 100.0
        self.out = io.StringIO()
        self.scheduler = HandmadeScheduler(num_issued)
        fleet = SimpleNamespace(live=[0], links=[0, 1])
        run = cast(Any, SimpleNamespace(scheduler=self.scheduler, fleet=fleet))
        lateness = IssueLateness()
        self.progress = Progress(run, lambda: expected, lateness, self.out, lambda: self.now_s)

    def send(self, num: int) -> Any:
        """Send requests that were issued at 0; returns their names."""
        return self.scheduler.send(num)

    def receive(self, names: Any, count: int, at_ms: int, *, ends: bool = False) -> None:
        """Receive a frame with that many tokens for each request."""
        self.scheduler.receive(names, count, at_ms * MS, ends=ends)

    def tick(self, at_s: float) -> list[str]:
        """Tick; returns the parts of all lines so far, the latest line's last."""
        self.now_s = 100.0 + at_s
        self.progress.tick()
        return self.out.getvalue().rpartition("]")[2].strip().split(", ")


def test_first_tokens_count_before_any_answer_is_complete() -> None:
    """Four of ten requests run and have their first tokens after 5 to 8 ms: the p99 is 8 ms, six wait."""
    run = SimulatedRun(num_issued=10, expected=10)
    names = run.send(4)
    for row, at_ms in enumerate((5, 6, 7, 8)):
        run.receive(names[row : row + 1], 1, at_ms)
    parts = run.tick(10)
    assert "done 0/10" in parts
    assert "in flight 4" in parts
    assert "waiting 6" in parts
    assert "first tokens 4" in parts
    assert "TTFT p99 8 ms from issue" in parts
    assert "ETA ?" in parts


def test_before_the_first_token_no_ttft_is_claimed() -> None:
    """Without a first token the line says `?`, not 0 ms."""
    run = SimulatedRun(num_issued=4, expected=4)
    run.send(4)
    assert "TTFT p99 ? from issue" in run.tick(10)


def test_the_rate_is_a_mean_over_ten_seconds() -> None:
    """Steps of 60 tokens every 2 s are 30 tokens/s, whenever the line is due."""
    run = SimulatedRun(num_issued=1, expected=1)
    names = run.send(1)
    for second in range(1, 31):
        if second % 2 == 0:
            run.receive(names, 12, second * 1000)
        parts = run.tick(second)
    assert "6 tokens/s" in parts
    assert 3 == run.out.getvalue().count("6 tokens/s")


def test_a_finished_answer_is_counted_once() -> None:
    """Ten complete answers, three running, none waiting: 13 first tokens of 20 expected requests."""
    run = SimulatedRun(num_issued=13, expected=20)
    run.receive(run.send(10), 5, 3, ends=True)
    run.receive(run.send(3), 1, 9)
    parts = run.tick(10)
    assert "done 10/20" in parts
    assert ("in flight 3", "waiting 0", "first tokens 13") == tuple(parts[i] for i in (2, 3, 5))


def test_the_remaining_time_follows_from_tokens() -> None:
    """Ten answers of 100 tokens ended; ten others at 50 tokens and 5 tokens/s need 10 to 11 s more."""
    run = SimulatedRun(num_issued=20, expected=20)
    run.receive(run.send(10), 100, 1, ends=True)
    names = run.send(10)
    run.tick(1)
    for second in range(2, 31):
        if second > 25:
            run.receive(names, 10, second * 1000)
        parts = run.tick(second)
    # The window of 10 s holds 500 tokens: 50/s for ten requests, 5/s for each. Rounded up: 50 to 51 tokens.
    assert "ETA 11 s" in parts


def test_a_full_disk_under_the_lines_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that cannot be written are lost, and nothing else; /dev/full takes none."""
    monkeypatch.setattr(coordinator.recording.progress, "LINE_INTERVAL_S", 0.0)
    monkeypatch.setattr(Progress, "line", lambda _: "a line")
    # Without a buffer, nothing is left to be written when it is closed.
    with Path("/dev/full").open("wb", buffering=0) as full:
        run = SimpleNamespace(scheduler=SimpleNamespace(table=SimpleNamespace(num_tokens=0)))
        out = cast(Any, _Text(full))
        Progress(cast(Any, run), lambda: None, IssueLateness(), out).tick()
        with pytest.raises(OSError, match="No space left"):
            full.write(b"a line")


class _Text:
    """Text of a binary file, as stderr is."""

    def __init__(self, out: Any) -> None:
        self._out = out

    def write(self, text: str) -> None:
        """Write it through."""
        self._out.write(text.encode())

    def flush(self) -> None:
        """Have nothing to flush."""
