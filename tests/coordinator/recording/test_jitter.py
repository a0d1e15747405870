"""The jitter meter: real pauses, and clocks that the test sets."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from coordinator.recording.jitter import ClockMonitor, Clocks, JitterMeter, PauseList
from sut.results.checks import clock
from sut.results.telemetry import STEP_BOUND_NS
from tests import fleet

MS = 10**6
# Ticks every 10 ms until stdin ends, then says what it saw.
CHILD = """
import asyncio, dataclasses, json, sys
from coordinator.recording.jitter import JitterMeter
async def main():
    with JitterMeter(asyncio.get_running_loop(), tick_s=0.01) as meter:
        await asyncio.sleep(0.1)
        print("ticking", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await asyncio.sleep(0.1)
    print(json.dumps(dataclasses.asdict(meter.telemetry())))
asyncio.run(main())
"""


class SetClock:
    """Three clocks of which the test is the time."""

    def __init__(self) -> None:
        self.monotonic_ns, self.system_ns, self.raw_ns = 5_000, 1_000_000_000, 7_000
        self.reading_ns = 0
        """What passes at each reading of the monotonic clock."""

    def clocks(self) -> Clocks:
        """Give them to read."""
        return Clocks(lambda: self.system_ns, self._monotonic, lambda: self.raw_ns)

    def go_on(self, time_ns: int, *, step_ns: int = 0, slew_ns: int = 0) -> None:
        """Let time pass; a step sets the system clock alone, slewing moves monotonic with it."""
        self.raw_ns += time_ns
        self.monotonic_ns += time_ns + slew_ns
        self.system_ns += time_ns + slew_ns + step_ns

    def _monotonic(self) -> int:
        self.go_on(self.reading_ns)
        return self.monotonic_ns


@pytest.fixture
def quiet_gc() -> Iterator[None]:
    """Leave collections to the test."""
    gc.disable()
    yield
    gc.enable()


def test_a_blocked_loop_is_a_pause() -> None:
    """What blocks the loop for 350 ms makes a tick late by that, less the 10 ms to the tick; none before."""

    async def block() -> JitterMeter:
        with JitterMeter(asyncio.get_running_loop(), tick_s=0.01) as meter:
            await asyncio.sleep(0.05)
            time.sleep(0.35)  # noqa: ASYNC251 - that is the fault
            await asyncio.sleep(0.05)
        return meter

    found = asyncio.run(block()).telemetry().loop
    assert found.num_long >= 1
    assert found.worst_ns >= 335 * MS
    assert found.total_ns >= found.worst_ns
    assert found.num >= 2


def test_a_loop_that_still_stands_is_a_pause_at_the_end() -> None:
    """The end of measuring, on another thread while the loop is blocked, counts the tick that is overdue."""
    loop, blocked, ended = asyncio.new_event_loop(), threading.Event(), threading.Event()

    async def block() -> None:
        await asyncio.sleep(0.05)
        blocked.set()
        ended.wait(60)

    with JitterMeter(loop, tick_s=0.01) as meter:
        thread = threading.Thread(target=loop.run_until_complete, args=(block(),), daemon=True)
        thread.start()
        assert blocked.wait(60)
        time.sleep(0.2)
    before = meter.telemetry()
    assert before.loop.worst_ns >= 185 * MS
    ended.set()
    thread.join(60)
    # The tick that was overdue comes now, and is not counted again.
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()
    assert before == meter.telemetry()


@pytest.mark.usefixtures("quiet_gc")
def test_collections_are_counted_with_their_length() -> None:
    """Three collections are three; one that something holds up for 150 ms is long; none counts after stop."""

    def hold_up(phase: str, _: dict[str, int]) -> None:
        if phase == "start" and slow:
            time.sleep(0.15)

    async def collect() -> JitterMeter:
        nonlocal slow
        with JitterMeter(asyncio.get_running_loop()) as meter:
            gc.callbacks.append(hold_up)
            gc.collect()
            gc.collect()
            slow = True
            gc.collect()
        gc.collect()
        return meter

    slow = False
    callbacks = list(gc.callbacks)
    try:
        found = asyncio.run(collect()).telemetry().gc
    finally:
        gc.callbacks.remove(hold_up)
    # On a loaded machine the others may be long too.
    assert 3 == found.num
    assert found.num_long >= 1
    assert found.total_ns >= found.worst_ns >= 150 * MS
    assert callbacks == gc.callbacks


@pytest.mark.usefixtures("quiet_gc")
def test_a_large_heap_is_seen_from_any_thread() -> None:
    """A full collection over a million containers, in a thread of its own, has a length."""

    async def collect() -> JitterMeter:
        heap = [[number] for number in range(1_000_000)]
        with JitterMeter(asyncio.get_running_loop()) as meter:
            await asyncio.to_thread(gc.collect)
        assert len(heap) == 1_000_000
        return meter

    found = asyncio.run(collect()).telemetry().gc
    assert found.num == 1
    # Each container is visited: a microsecond for a thousand of them is far too fast.
    assert found.worst_ns > MS


def test_a_stopped_process_is_a_pause_and_no_step() -> None:
    """SIGSTOP for 500 ms is a pause of the loop; the clocks went on alike, so it is no step."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        cwd=fleet.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ticking\n"
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGCONT)
        out, _ = process.communicate(timeout=240)
    finally:
        process.kill()
        process.wait()
    seen = json.loads(out)
    assert seen["loop"]["worst_ns"] >= 450 * MS
    assert seen["clock"]["elapsed_ns"] >= 500 * MS
    assert seen["clock"]["num_looks"] >= 2
    assert abs(seen["clock"]["worst_step_ns"]) <= STEP_BOUND_NS


@pytest.mark.parametrize("step_ns", [6 * MS, -6 * MS])
def test_a_step_is_told_from_a_pause_and_from_slewing(step_ns: int) -> None:
    """A step of 6 ms is one, either way; ten minutes of standing still and of slewing by 500 ppm are none."""
    fake = SetClock()
    monitor = ClockMonitor(fake.clocks())
    monitor.sample()
    # 10 looks, 60 s apart, 30 ms of slewing between two.
    for _ in range(10):
        fake.go_on(60_000 * MS, slew_ns=30 * MS)
        monitor.sample()
    before = monitor.figures
    assert (11, 0, 300 * MS) == (before.num_looks, before.worst_step_ns, before.drift_ns)
    assert before.elapsed_ns == 600_300 * MS
    fake.go_on(1000 * MS, step_ns=step_ns)
    monitor.sample()
    fake.go_on(1000 * MS, step_ns=-step_ns // 2)
    monitor.sample()
    assert step_ns == monitor.figures.worst_step_ns
    assert 300 * MS + step_ns // 2 == monitor.figures.drift_ns


def test_a_reading_that_was_held_up_is_no_look() -> None:
    """Clocks between whose readings 0.6 ms pass are not compared; nor is the first of two looks lost."""
    fake = SetClock()
    monitor = ClockMonitor(fake.clocks())
    monitor.sample()
    fake.reading_ns = 600_000
    monitor.sample()
    assert monitor.figures.num_looks == 1
    fake.reading_ns = 0
    fake.go_on(1000 * MS, step_ns=7 * MS)
    monitor.sample()
    assert monitor.figures.num_looks == 2
    assert monitor.figures.worst_step_ns == 7 * MS


def test_the_systems_own_clocks_are_steady() -> None:
    """The real clocks, looked at during a second, pass the check clock."""

    async def tick() -> JitterMeter:
        with JitterMeter(asyncio.get_running_loop(), tick_s=0.01) as meter:
            await asyncio.sleep(1)
        return meter

    telemetry = asyncio.run(tick()).telemetry()
    assert telemetry.clock.num_looks >= 2
    assert clock(telemetry).passed, telemetry


def test_the_longest_pauses_are_kept_in_order() -> None:
    """Of five pauses of at least 10 ms the three longest are kept, by their begin; 9 ms is no pause."""
    pauses = PauseList(max_pauses=3)
    for began_ms, duration_ms in ((1, 30), (2, 10), (3, 50), (4, 9), (5, 40), (6, 20)):
        pauses.add("gc", began_ms * MS, duration_ms * MS)
    found = [(pause.began_ns // MS, pause.duration_ns // MS) for pause in pauses.in_order()]
    assert [(1, 30), (3, 50), (5, 40)] == found
