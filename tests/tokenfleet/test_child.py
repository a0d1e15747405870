"""How a child process is ended with the block that runs it."""

import os
import signal
import sys
from pathlib import Path

import pytest

from common.signals import Interrupted
from tests.faults.crew import wait_until
from tokenfleet.child import ChildProcess

# Exits with 7 after SIGINT; SIGTERM kills it.
PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
print("ready", flush=True)
time.sleep(30)
"""


@pytest.mark.parametrize(("error", "code"), [(Interrupted(signal.SIGINT), 7), (OSError(), -signal.SIGTERM)])
def test_a_child_gets_the_signal_that_has_interrupted_its_block(
    tmp_path: Path, error: BaseException, code: int
) -> None:
    """SIGINT for a block that SIGINT has interrupted; SIGTERM for one that has failed otherwise."""
    log = tmp_path / "log"
    with (
        pytest.raises(type(error)),
        log.open("wb") as output,
        ChildProcess([sys.executable, "-c", PROGRAM], dict(os.environ), output) as child,
    ):
        wait_until(lambda: "ready" in log.read_text(), "ready")
        raise error
    assert code == child.poll()


def test_a_killed_child_that_the_kernel_holds_does_not_hold_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No signal ends the child, as while it waits for a network disk: the block ends all the same."""
    for name in ("STOP_TIMEOUT_S", "KILL_TIMEOUT_S"):
        monkeypatch.setattr(f"tokenfleet.child.{name}", 0.1)
    command = [sys.executable, "-c", PROGRAM]
    with (tmp_path / "log").open("wb") as output, monkeypatch.context() as held:
        with ChildProcess(command, dict(os.environ), output) as child:
            held.setattr(os, "killpg", lambda *_: None)
            held.setattr(child, "send_signal", lambda _: None)
        assert child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    assert -signal.SIGKILL == child.poll()
