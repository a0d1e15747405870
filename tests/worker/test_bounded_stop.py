"""A worker whose engine does not close is ended, and names the function at which it hangs."""

import signal
import time
from pathlib import Path

from tests.fleet import free_port
from tests.forked import ForkedProcess, main_of

HANGS = """
import asyncio, sys, threading
from common import forced_end
from worker import bounded_stop
from worker.__main__ import main
from worker.engines.scripted.counting import CountingEngine

def hangs_for_ever():
    threading.Event().wait()

async def close(engine):
    await asyncio.to_thread(hangs_for_ever)

bounded_stop.STOP_TIMEOUT_S = 0.5
# A slow machine needs more time to end than the timer's thread is given.
forced_end._WITHOUT_GIL_S = forced_end._BY_KERNEL_S = forced_end.SHOW_TIMEOUT_S = 60.0
CountingEngine.close = close
sys.exit(main(sys.argv[1:]))
"""


def test_an_engine_that_does_not_close_does_not_hold_its_worker(tmp_path: Path) -> None:
    """After SIGTERM the worker ends with exit code 1; without the bound it would take 300 s or more."""
    log, port = tmp_path / "worker.log", free_port()
    worker = ForkedProcess(main_of(HANGS), ["--engine", "counting", "--port", str(port)], log)
    try:
        deadline_s = time.monotonic() + 60
        while "serving" not in log.read_text():
            assert worker.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.02)
        worker.send_signal(signal.SIGTERM)
        assert 1 == worker.wait(60), log.read_text()
    finally:
        worker.kill()
    assert "ended by force after 0.5 s; the threads were at:\n" in log.read_text()
    assert "in hangs_for_ever" in log.read_text()
