"""When LoadGen's logs count as stuck: only after the last completion, and never while they grow."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.signals import SIGNAL_POLL_S
from coordinator.recording import log_growth
from coordinator.recording.file_thread import FileThread
from coordinator.recording.log_growth import LogGrowth

# Longer than one late question counts, which is twice the interval of questions.
TIMEOUT_S = 1.5
LONGER_S = 2 * TIMEOUT_S


def watch(
    growth: LogGrowth, for_s: float, *, complete: bool = True, step: Callable[[], object] = lambda: None
) -> str | None:
    """Ask as the main thread does, with a step before each question; returns the first reason."""
    ends_s = time.monotonic() + for_s
    while time.monotonic() < ends_s:
        step()
        time.sleep(SIGNAL_POLL_S)
        if (reason := growth.find_stall(idle=True, complete=complete)) is not None:
            return reason
    return None


@pytest.mark.parametrize("look_interval_s", [log_growth.LOOK_INTERVAL_S, 1.2])
def test_log_that_does_not_grow_is_stuck_after_the_timeout(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch, look_interval_s: float
) -> None:
    """The reason names directory and bound, also if looks are rarer than questions; it is not early."""
    timeout_s = 2.0
    monkeypatch.setattr(log_growth, "LOOK_INTERVAL_S", look_interval_s)
    with LogGrowth(memory_path, timeout_s) as growth:
        began_s = time.monotonic()
        reason = watch(growth, 20.0)
    assert f"{memory_path}: the logs do not grow for 2 s after the last completion" == reason
    assert time.monotonic() - began_s >= timeout_s


def test_log_that_grows_slowly_is_never_stuck(memory_path: Path) -> None:
    """One byte in half a second for twice the timeout."""
    log = memory_path / "rejected_mlperf_log_accuracy.json"

    def grow() -> None:
        with log.open("ab") as file:
            file.write(b"x")

    with LogGrowth(memory_path, TIMEOUT_S) as growth:
        assert watch(growth, LONGER_S, step=grow) is None


def test_pause_between_queries_is_no_stall(memory_path: Path) -> None:
    """LoadGen may issue more queries, and the disk answers: nothing is stuck, however long it takes."""
    with LogGrowth(memory_path, TIMEOUT_S) as growth:
        assert watch(growth, LONGER_S, complete=False) is None


def test_queries_in_flight_are_no_stall(memory_path: Path) -> None:
    """While queries run, other bounds apply."""
    with LogGrowth(memory_path, TIMEOUT_S) as growth:
        for _ in range(int(LONGER_S / SIGNAL_POLL_S)):
            time.sleep(SIGNAL_POLL_S)
            assert growth.find_stall(idle=False, complete=False) is None


def test_disk_that_does_not_answer_is_stuck_whether_or_not_more_is_issued(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at the directory hangs; the main thread does not."""
    released = threading.Event()
    monkeypatch.setattr(log_growth.os, "utime", lambda _: released.wait(30.0))
    try:
        with LogGrowth(memory_path, TIMEOUT_S) as growth:
            reason = watch(growth, 20.0, complete=False)
    finally:
        released.set()
    assert f"{memory_path}: the file system does not answer for 1.5 s after the last completion" == reason


def test_call_that_works_is_waited_for_and_one_that_hangs_is_not() -> None:
    """A call of twice the bound that uses the CPU returns; one that waits is given up at the bound."""
    pause = threading.Event()

    def work() -> str:
        for _ in range(round(LONGER_S / 0.05)):
            sum(range(10_000))
            pause.wait(0.05)
        return "read"

    with FileThread() as files:
        assert "read" == files.call_while_active(work, TIMEOUT_S)
        with pytest.raises(TimeoutError, match=r"^no answer within 1.5 s$"):
            files.call_while_active(lambda: pause.wait(30.0), TIMEOUT_S)
        with pytest.raises(TimeoutError, match="earlier call"):
            files.call(os.getpid, 1.0)
        pause.set()
