"""The runs of a plan: sample counts, durations and what decides a result."""

from pathlib import Path

import pytest

from sut.results.submission.recorded_runs import RunKind
from sut.settings import Scenario
from tests.tokenfleet.campaign.plans import STRICT, write_plan
from tokenfleet.campaign.plan_file import NodeFlags, read_plan
from tokenfleet.campaign.planned_runs import (
    decisive_conf,
    expected_duration_s,
    plan_runs,
    planned_samples,
)


@pytest.mark.parametrize(
    ("offline_qps", "offline", "server_qps", "server"),
    [
        # Offline: 1.1 * 600 s * rate, Server: 600 s * rate, in whole multiples of 6,396.
        ("1", 6396, "1", 6396),
        ("9.69", 6396, "10.5", 6396),
        ("12", 12792, "12", 12792),
        ("80", 57564, "80", 51168),
    ],
)
def test_sample_counts_make_a_run_last_600_s(
    tmp_path: Path, offline_qps: str, offline: int, server_qps: str, server: int
) -> None:
    """The planned counts are those that LoadGen chooses for these rates."""
    rates = (("target-qps = 12", f"target-qps = {offline_qps}"), ("= 10.5", f"= {server_qps}"))
    plan = read_plan(write_plan(tmp_path, STRICT, *rates), NodeFlags())
    runs = {run.name: run for run in plan_runs(plan)}
    counts = {name: planned_samples(plan, run) for name, run in runs.items()}
    assert {
        **{"offline performance": offline, "server performance": server},
        **{"offline accuracy": 4395, "server accuracy": 4395, "offline TEST07": 990, "server TEST07": 990},
        **{"offline TEST09": 6396, "server TEST09": 6396},
    } == counts
    assert expected_duration_s(plan, runs["offline performance"]) == pytest.approx(
        offline / float(offline_qps)
    )


def test_the_rate_decides_no_answer() -> None:
    """Another target_qps leaves accuracy runs and Offline's compliance runs as they are."""
    without = "# Written for this run.\na.Offline.min_query_count = 5\n"
    conf = f"{without}# From --target-qps:\na.Offline.target_qps = 7.0\n"
    assert conf == decisive_conf(Scenario.OFFLINE, RunKind.PERFORMANCE, conf)
    assert conf == decisive_conf(Scenario.SERVER, RunKind.TEST09, conf)
    assert without == decisive_conf(Scenario.SERVER, RunKind.ACCURACY, conf)
    assert without == decisive_conf(Scenario.OFFLINE, RunKind.TEST09, conf)
