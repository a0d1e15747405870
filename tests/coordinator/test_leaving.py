"""How an interrupted run leaves: without an import, and by force where one of its steps hangs."""

import sys
from pathlib import Path

from tests import fleet
from tests.coordinator.test_broken_runs import PROMPTS, coordinator, wait_busy
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
