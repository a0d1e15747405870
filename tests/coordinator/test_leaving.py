"""How a run leaves: no signal cuts it short, it imports nothing, and it ends by force if a step hangs."""

import signal
import sys
import time
from pathlib import Path

from tests import fleet
from tests.coordinator.test_broken_runs import BUSY_TIMEOUT_S, FAIL, PROMPTS, coordinator, wait_busy
from tests.forked import main_of

# A coordinator that prints the modules which it has imported between its signal and its end.
SHOWS_IMPORTS = """
import sys
from coordinator import run
from coordinator.__main__ import main

begin, end, known = run.Execution._leave, run.leave, set()

def begin_to_leave(execution, *verdict):
    known.update(sys.modules)
    begin(execution, *verdict)

def leave(code):
    sys.stderr.write(f"imported: {sorted(set(sys.modules) - known)}\\n")
    end(code)

run.Execution._leave, run.leave = begin_to_leave, leave
sys.exit(main(sys.argv[1:]))
"""
# A coordinator whose first step waits for something that never comes.
HANGS = """
import sys, threading
from common import forced_end
from coordinator import run_end
from coordinator.__main__ import main
from coordinator.scheduling.event_loop import ActiveRun

def hangs_at_once(_):
    threading.Event().wait()

run_end.SHORT_LIMITS = run_end.SHORT_LIMITS._replace(total_s=1.0)
# A slow machine needs more time to end than the timer's thread is given.
forced_end._WITHOUT_GIL_S = forced_end._BY_KERNEL_S = forced_end.SHOW_TIMEOUT_S = 60.0
ActiveRun.abandon = hangs_at_once
sys.exit(main(sys.argv[1:]))
"""
# Its outputs are kept only after the signal: a file says that it was sent.
SLOW_TO_LEAVE = """
import os, sys, time
from coordinator.__main__ import main
from coordinator.recording.outputs import Outputs

salvage = Outputs.salvage

def salvage_after_signal(*args):
    while not os.path.exists({sent!r}):
        time.sleep(0.01)
    return salvage(*args)

Outputs.salvage = salvage_after_signal
sys.exit(main(sys.argv[1:]))
"""


def test_a_signal_while_a_failed_run_ends_cuts_nothing_off(tmp_path: Path) -> None:
    """A first SIGINT then is no second end: exit code 1, received answers kept, the table printed."""
    sent = tmp_path / "sent"
    program = main_of(SLOW_TO_LEAVE.format(sent=str(sent)))
    with (
        fleet.workers(tmp_path, 2, "--step-ms", "20") as started,
        coordinator(started, tmp_path, PROMPTS, *FAIL, program=program) as run,
    ):
        wait_busy(started, run)
        started[1].process.kill()
        deadline_s = time.monotonic() + BUSY_TIMEOUT_S
        while "ERROR coordinator.run: run FAILED" not in run.log.read_text():
            assert time.monotonic() < deadline_s, run.log.read_text()
            time.sleep(0.05)
        run.process.send_signal(signal.SIGINT)
        sent.touch()
        code, log = run.end()
    assert (1, False) == (code, "Traceback" in log), log
    assert "== offline performance: FAILED ==" in log
    assert (tmp_path / "out" / "offline" / "performance" / "partial_outputs.parquet").exists()


def test_an_interrupted_run_imports_nothing(tmp_path: Path) -> None:
    """Answers and times of finished requests are written by modules that were loaded before the signal.

    An import reads files, from a disk that may be slow, and takes the interpreter from the other threads.
    """
    short = [[2, 7, 1000 * (i + 100)] for i in range(20)]
    with fleet.workers(tmp_path, 1, "--step-ms", "20") as started:
        program = (sys.executable, "-c", SHOWS_IMPORTS)
        with coordinator(started, tmp_path, short + PROMPTS, program=program) as run:
            wait_busy(started, run, num_tokens=200)
            run.process.terminate()
            code, log = run.end()
    assert 143 == code, log
    assert (tmp_path / "out" / "offline" / "performance" / "requests.parquet").exists()
    assert "imported: []\n" in log


def test_a_step_that_hangs_is_ended_and_named(tmp_path: Path) -> None:
    """The run ends with the code of its signal, and its log has the function at which it hung."""
    with (
        fleet.workers(tmp_path, 1, "--step-ms", "20") as started,
        coordinator(started, tmp_path, PROMPTS, program=main_of(HANGS)) as run,
    ):
        wait_busy(started, run)
        run.process.terminate()
        code, log = run.end()
    assert 143 == code, log
    assert "ended by force after 1 s; the threads were at:\n" in log
    assert "in hangs_at_once" in log
