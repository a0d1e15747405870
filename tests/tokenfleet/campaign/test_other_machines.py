"""A campaign whose tree could not hold what its workers would run stops before they run it."""

from pathlib import Path

import pytest

from tests.tokenfleet.campaign.plans import change_num_cores
from tests.tokenfleet.campaign.small_campaign import SmallCampaign

pytestmark = pytest.mark.long
PERFORMANCE, ACCURACY = "offline performance", "offline accuracy"


def test_workers_on_other_machines_than_runs_that_count_stop_the_campaign(tmp_path: Path) -> None:
    """Nothing is run, the run that counts stays, and the line says how to go on."""
    campaign = SmallCampaign(tmp_path)
    try:
        first = campaign.start()
        first.wait_for(f"{ACCURACY}: running")
        first.kill()
        kept = campaign.finished()
        assert [PERFORMANCE] == list(kept)
        num_cores = change_num_cores(campaign.run_dir(PERFORMANCE) / "run.json")

        again = campaign.start()
        assert 2 == again.end(), again.text()
        machines = f"another set of machines: {num_cores} cores, not 999 cores as in {PERFORMANCE}"
        line = f"the workers of group all have {machines}: move out/offline/performance away to run it anew"
        assert line in again.text()
        assert kept == campaign.finished()
    finally:
        campaign.kill_all()
