"""A local worker that a killed campaign left behind."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from coordinator.transport.access import Access
from tokenfleet.campaign.campaign_state import CampaignState, LocalProcess
from tokenfleet.campaign.detached_worker import start_ticks
from tokenfleet.campaign.group_workers import LocalWorkers, WorkerTimeouts
from tokenfleet.campaign.plan_file import CampaignPlan

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
WAIT_S = 60.0


def workers_of(directory: Path, left: LocalProcess) -> tuple[LocalWorkers, CampaignState]:
    """Make the workers of a campaign whose earlier start left a process behind."""
    state = CampaignState(directory / "campaign.json", {}, local=[left])
    plan: Any = SimpleNamespace(campaign=SimpleNamespace(output_dir=directory))
    patience = WorkerTimeouts(ready_s=1.0, restart_s=1.0)
    return LocalWorkers(cast(CampaignPlan, plan), state, Access(), patience), state


def test_the_end_of_a_campaign_stops_the_worker_of_an_earlier_start(tmp_path: Path) -> None:
    """No run was due, so that no worker was loaded: the one that was left holds its GPUs no longer."""
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        boot_id = BOOT_ID.read_text("ascii").strip()
        left = LocalProcess(
            pid=process.pid,
            start_ticks=start_ticks(process.pid) or 0,
            boot_id=boot_id,
            port=1,
            argv=(),
            commit="",
        )
        workers, state = workers_of(tmp_path, left)
        workers.close()
        assert -15 == process.wait(WAIT_S)
    finally:
        process.kill()
    assert [] == state.local
