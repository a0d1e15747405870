"""How long a thread waited for a core, by the kernel's counts."""

import os
import subprocess
import sys
import threading
import time

from coordinator.recording.core_meter import CoreMeter

BUSY = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); print(flush=True)\nwhile True: pass"


def test_a_thread_that_shares_its_core_with_a_process_waits_for_it() -> None:
    """It runs for 0.2 s on a core that a process never leaves: it waits in between, and sleep is no wait."""
    core = min(os.sched_getaffinity(0))
    meter = CoreMeter()

    def share() -> None:
        os.sched_setaffinity(0, {core})
        meter.begin()
        while time.thread_time() < 0.2:
            pass
        time.sleep(0.2)
        meter.end()

    process = subprocess.Popen([sys.executable, "-c", BUSY, str(core)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "\n" == process.stdout.readline()
        thread = threading.Thread(target=share)
        thread.start()
        thread.join(60)
    finally:
        process.kill()
        process.communicate()
    found = meter.figures
    assert found is not None
    # Both are equally entitled to the core.
    assert found.waited_ns > 50_000_000
    assert found.waited_ns <= found.elapsed_ns - 300_000_000


def test_without_a_begin_nothing_was_measured() -> None:
    """The loop of a run may be blocked from its begin to its end."""
    meter = CoreMeter()
    meter.end()
    assert meter.figures is None
