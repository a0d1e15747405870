"""`tokenfleet plan`: the arithmetic by hand, bad input, and the benchmark itself."""

import json
from pathlib import Path

import pytest

from common.control_groups import CpuQuota
from coordinator.doctor.capacity import CoordinatorCosts, CoordinatorLoad
from sut.settings import Scenario
from tests.forked import end_of
from tokenfleet.cli import main
from tokenfleet.plan.carried_load import carried_load
from tokenfleet.plan.plan_command import PlanConfig, format_plan
from tokenfleet.plan.self_benchmark import (
    BenchmarkFailed,
    MeasuredHost,
    ShortRunFigures,
    check_throttling,
    derive_costs,
)

# 20 us a frame, 10 us for 1,000 tokens, 200 us a query, 1 % of a core at rest.
COSTS = CoordinatorCosts(idle=0.01, frame=20e-6, token=10e-9, query=200e-6)
HOST = MeasuredHost(COSTS, COSTS, {})


def test_the_share_of_a_planned_load() -> None:
    """Cores, share and limits of 1,000 requests/s of 1,000 tokens at 10 workers."""
    carried = carried_load(COSTS, CoordinatorLoad(1_000, 10, 1_000))
    # 0.01 + 20 us x (500 + 2,000) frames + 10 ns x 1 million tokens + 200 us x 1,000.
    assert carried.cores == pytest.approx(0.27)
    assert carried.share == pytest.approx(0.27 / 0.75)
    # At rest 0.01 + 20 us x 500 = 0.02; a query takes 200 + 2 x 20 + 1,000 x 0.01 = 250 us: 0.73 / 250 us.
    assert carried.max_queries_per_s == pytest.approx(2_920)
    assert carried.max_tokens_per_s == pytest.approx(2.92e6)
    # Without workers 0.01 + 0.25 = 0.26; a worker takes 50 x 20 us = 0.001: 0.49 / 0.001.
    assert carried.max_workers in (489, 490)


def test_a_step_is_at_most_one_frame() -> None:
    """Steps of 50 ms: 20 frames/s a worker, whatever the rate."""
    # 0.01 + 20 us x 20 x 10 frames + 10 ns x 1 million tokens + 200 us x 1,000 = 0.01 + 0.004 + 0.01 + 0.2.
    load = CoordinatorLoad(1_000, 10, 1_000, steps_per_s=20)
    carried = carried_load(COSTS, load)
    assert carried.cores == pytest.approx(0.224)
    # 0.01 + 0.004 at rest, and 210 us a query: 0.736 / 210 us.
    assert carried.max_queries_per_s == pytest.approx(3_504.76, rel=1e-5)


def test_a_load_beyond_the_limit_carries_no_more() -> None:
    """A rate that alone takes more than the limit leaves room for no worker, and more workers for no rate."""
    assert carried_load(COSTS, CoordinatorLoad(10_000, 10, 1_000)).max_workers == 0
    assert carried_load(COSTS, CoordinatorLoad(1, 1_000, 1_000)).max_queries_per_s == 0


def test_the_costs_are_derived_from_the_runs() -> None:
    """Each run gives one cost, after what is known of the others is subtracted."""
    runs = {
        "idle": ShortRunFigures(cpu_s=0.04, seconds=4.0, queries=8, frames=16, tokens=16),
        # 4 s x 0.01, 1,000 x 20 us, 10,000 x 10 ns: 0.04 + 0.02 + 0.0001.
        "frames": ShortRunFigures(cpu_s=0.0601, seconds=4.0, queries=16, frames=1_000, tokens=10_000),
        # 0.03 + 2,000 x 20 us + 2,000 x 10 ns + 1,000 x 200 us.
        "queries": ShortRunFigures(cpu_s=0.27002, seconds=3.0, queries=1_000, frames=2_000, tokens=2_000),
        # 0.01 + 10 x 20 us + 2,000 x 10 ns + 1,000 x 50 us.
        "samples": ShortRunFigures(cpu_s=0.06022, seconds=1.0, queries=1_000, frames=10, tokens=2_000),
    }
    measured = derive_costs(runs, token_s=10e-9)
    assert measured.costs(Scenario.SERVER) == pytest.approx(COSTS)
    assert measured.costs(Scenario.INTERACTIVE) == pytest.approx(COSTS)
    assert measured.costs(Scenario.OFFLINE) == pytest.approx(COSTS._replace(query=50e-6))


def test_costs_that_cannot_be_told_apart_are_refused() -> None:
    """A busy host makes frames seem to cost more than the queries' run took: no cost of a query follows."""
    runs = {
        "idle": ShortRunFigures(cpu_s=0.04, seconds=4.0, queries=8, frames=16, tokens=16),
        # 0.1001 less 0.04 at rest, 0.0001 of tokens: 60 us a frame.
        "frames": ShortRunFigures(cpu_s=0.1001, seconds=4.0, queries=16, frames=1_000, tokens=10_000),
        # 2,000 x 60 us, 0.03 at rest and 0.00002 of tokens explain 0.15002 of 0.157 s: 4.4 % is left.
        "queries": ShortRunFigures(cpu_s=0.157, seconds=3.0, queries=1_000, frames=2_000, tokens=2_000),
        "samples": ShortRunFigures(cpu_s=0.06022, seconds=1.0, queries=1_000, frames=10, tokens=2_000),
    }
    with pytest.raises(BenchmarkFailed, match=r"run of queries took 0[.]157 s of CPU, of which .* 0[.]150 s"):
        derive_costs(runs, token_s=10e-9)


def test_a_benchmark_that_a_quota_has_stopped_is_refused() -> None:
    """Stopped in 94 % of the periods, as under a quota of 0.3 core; in 2 % while programs start it stands."""
    none, some = CpuQuota(0.3, 100, 50), CpuQuota(0.3, 200, 52)
    check_throttling(none, some)
    check_throttling(None, None)
    with pytest.raises(
        BenchmarkFailed, match=r"in 94 of 100 periods of 0[.]1 s, because of a CPU quota of 0[.]3"
    ):
        check_throttling(none, CpuQuota(0.3, 200, 144))


def test_a_quota_below_one_core_lowers_the_limit() -> None:
    """Of 0.5 core a coordinator carries 0.375; more than one core is not used."""
    load = CoordinatorLoad(1_000, 10, 1_000)
    # 0.02 at rest and 250 us a query, as above: 0.355 / 250 us.
    carried = carried_load(COSTS, load, quota_cores=0.5)
    assert carried.max_queries_per_s == pytest.approx(1_420)
    assert carried.share == pytest.approx(0.27 / 0.375)
    text = format_plan(PlanConfig(num_workers=10), HOST, carried)
    assert "A coordinator carries 0.375 core" in text
    assert "The limit is that of a CPU quota of less than one core" in text
    assert carried_load(COSTS, load, quota_cores=4.0) == carried_load(COSTS, load)


def test_the_table_names_the_limits() -> None:
    """The table has the costs, the planned share and what is carried."""
    config = PlanConfig(num_workers=10, target_qps=1_000.0, answer_len=1_000.0)
    text = format_plan(config, HOST, carried_load(COSTS, CoordinatorLoad(1_000, 10, 1_000)))
    assert "0.010 core at rest, 200 us a request, 20 us a frame, 10 us for 1,000 tokens" in text
    assert "1000 requests/s, 1,000,000 tokens/s, 2,500 frames/s: 0.27 core, 36% of what it carries" in text
    assert "carries              2,920 requests/s, 2,920,000 tokens/s with 10 workers" in text


def test_the_table_says_why_nothing_is_carried() -> None:
    """0.01 + 20 us x 50 x 1,000 frames = 1.01 core at rest is above 0.75."""
    config = PlanConfig(num_workers=1_000, target_qps=1.0, answer_len=1_000.0)
    text = format_plan(config, HOST, carried_load(COSTS, config.load))
    assert "carries              no request: the workers' frames alone take more than 0.75 core" in text


def test_a_busy_host_is_no_measurement_to_20_percent() -> None:
    """With 0.6 of other processes on each core the table does not claim an error; with 0.5 it does."""
    config = PlanConfig(num_workers=10)
    carried = carried_load(COSTS, config.load)
    idle = format_plan(config, HOST._replace(load_per_core=0.5), carried)
    busy = format_plan(config, HOST._replace(load_per_core=0.6), carried)
    assert "The costs are known to about 20 %" in idle
    assert "20 %" not in busy
    assert "Other processes used this host: 0.6 on each core on average." in busy


@pytest.mark.parametrize(
    "argv, reason",
    [
        (["--target-qps", "0"], "--target-qps"),
        (["--num-workers", "0"], "--num-workers"),
        (["--scenario", "multistream"], "--scenario"),
        (["--json", "/nowhere/plan.json"], "--json /nowhere/plan.json: /nowhere is not a directory"),
        (["--workers", "a:1"], "unrecognized arguments"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, argv: list[str], reason: str) -> None:
    """Bad flags are one line and exit code 2, before anything is measured."""
    code, output, errors = end_of(main, ["plan", *argv], tmp_path)
    assert (2, "", 1) == (code, output, errors.count("\n"))
    assert reason in errors


@pytest.mark.long
def test_this_host_is_measured(tmp_path: Path) -> None:
    """The benchmark runs on this machine; every cost is above 0 and the file has its runs."""
    path = tmp_path / "plan.json"
    code, output, errors = end_of(main, ["plan", "--target-qps", "10", "--json", str(path)], tmp_path)
    *_, reason = errors.splitlines()
    if code == 1 and ("because of a CPU quota" in reason or "the costs cannot be told apart" in reason):
        pytest.skip(f"this machine cannot be measured now: {reason}")
    assert 0 == code, errors
    assert "== plan, server, 8 workers" in output
    found = json.loads(path.read_text())
    assert ["idle", "frames", "queries", "samples"] == list(found["runs"])
    assert all(0 < cost < 0.01 for name, cost in found["costs"].items() if name != "idle")
    assert found["carried"]["max_queries_per_s"] > 10
