"""Programs that a killed campaign left behind: a grading that still writes, a run that still stops."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.child_process import child_environment
from tests import fleet
from tokenfleet.campaign.campaign_state import CHILDREN_LOCK_NAME, CampaignDir

# Starts a program as a campaign does, shows that, and is killed.
PARENT = """\
import os, signal, sys, time
from pathlib import Path
from tokenfleet.campaign.campaign_state import CampaignDir
from tokenfleet.child import ChildProcess
directory = CampaignDir(Path("out"))
lock = directory.wait_children()
stubborn = "import time; from signal import *; signal(SIGTERM, SIG_IGN); print(flush=True); time.sleep(600)"
with open("child.log", "wb") as output:
    child = ChildProcess([sys.executable, "-c", stubborn], os.environ, output, inherited_fds=[lock])
    while not os.path.getsize("child.log"):
        time.sleep(0.01)
    print(child._popen.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_campaign_waits_for_the_programs_of_a_killed_one(tmp_path: Path) -> None:
    """The lock of the campaign is free at once, that of its programs when the last one has ended."""
    parent = subprocess.run(
        [sys.executable, "-c", PARENT],
        cwd=tmp_path,
        env=child_environment(os.environ) | {"PYTHONPATH": str(fleet.ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert -9 == parent.returncode, parent.stderr
    child = int(parent.stdout)
    with CampaignDir(tmp_path / "out") as directory:
        with pytest.raises(
            TimeoutError, match=r"out: a program of an earlier campaign has not ended in 0\.1 s"
        ):
            directory.wait_children(0.1)
        os.kill(child, 9)
        assert directory.wait_children(60.0) > 0
        with (tmp_path / "out" / CHILDREN_LOCK_NAME).open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
