"""A process ends when the one that started it is killed."""

import subprocess
import sys
from pathlib import Path

from tests import fleet
from tests.worker.node.nodes import gone, wait_until

CHILD = """
import os, sys, time
from worker.machine.parent_death import end_with_parent
print(os.getpid(), end_with_parent(int(sys.argv[1])), flush=True)
time.sleep(600)
"""
PARENT = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {CHILD!r}, sys.argv[1] if sys.argv[1:] else str(os.getpid())])
time.sleep(600)
"""


def start(log: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a parent with a child, and wait until the child has called end_with_parent."""
    with log.open("wb") as out:
        parent = subprocess.Popen([sys.executable, "-c", PARENT, *words], cwd=fleet.ROOT, stdout=out)
    wait_until(lambda: log.read_text().endswith("\n"), log)
    return parent


def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    """The parent gets SIGKILL, which it cannot handle; the kernel kills the child."""
    parent = start(tmp_path / "log")
    pid, alive = (tmp_path / "log").read_text().split()
    assert "True" == alive
    parent.kill()
    parent.wait(60)
    wait_until(lambda: gone(int(pid)), tmp_path / "log")


def test_child_whose_parent_is_already_dead_is_told(tmp_path: Path) -> None:
    """The kernel sends nothing for a parent that died before the call; 1 is never the parent here."""
    parent = start(tmp_path / "log", "1")
    pid, alive = (tmp_path / "log").read_text().split()
    assert "False" == alive
    parent.kill()
    parent.wait(60)
    wait_until(lambda: gone(int(pid)), tmp_path / "log")
