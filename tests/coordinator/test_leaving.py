"""The way out of a run that failed: bounded, whole, and no signal cuts it short."""

import signal
import time
from pathlib import Path

from tests import fleet
from tests.coordinator.test_broken_runs import BUSY_TIMEOUT_S, FAIL, PROMPTS, Started, wait_busy
from tests.forked import main_of

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
    with fleet.workers(tmp_path, 2, "--step-ms", "20") as started:
        data = fleet.write_prompts(tmp_path / "data.parquet", PROMPTS)
        words = ["--max-new-tokens", "3000", *FAIL]
        argv = fleet.coordinator_flags(started, data, tmp_path / "out", *words)
        sent = tmp_path / "sent"
        run = Started(argv, tmp_path, main_of(SLOW_TO_LEAVE.format(sent=str(sent))))
        try:
            wait_busy(started, run)
            started[1].process.kill()
            deadline_s = time.monotonic() + BUSY_TIMEOUT_S
            while "ERROR coordinator.run: run FAILED" not in run.log.read_text():
                assert time.monotonic() < deadline_s, run.log.read_text()
                time.sleep(0.05)
            run.process.send_signal(signal.SIGINT)
            sent.touch()
            code, log = run.end()
        finally:
            run.process.kill()
    assert (1, False) == (code, "Traceback" in log), log
    assert "== offline performance: FAILED ==" in log
    assert (tmp_path / "out" / "offline" / "performance" / "partial_outputs.parquet").exists()
