"""Known delays in a run of LoadGen are found where they were: in LoadGen, coordinator, network and engine."""

import csv
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from sut.results.timing.loadgen_schedule import Seeded, due_times, read_trace
from tests import fleet
from tests.faults.proxy import proxied
from tests.forked import completed_command

MS = 1_000_000
LATE_MS, PAUSE_MS, NETWORK_MS, PREFILL_MS, STEP_MS = 10, 5, 20, 50, 4
# The coordinator with two delays: LoadGen's thread before the query is issued, and the event loop before it
# is sent.
DELAYED = f"""
import sys, time
from coordinator.__main__ import main
from coordinator.scheduling.scheduler import Scheduler
issue, push = Scheduler.issue, Scheduler._push_one
def late_issue(self, *query):
    time.sleep({LATE_MS / 1e3})
    issue(self, *query)
def paused_push(self, *query):
    # The moment of sending is taken at the call.
    time.sleep({PAUSE_MS / 1e3})
    push(self, *query)
Scheduler.issue, Scheduler._push_one = late_issue, paused_push
sys.exit(main(sys.argv[1:]))
"""
# 4 queries a second: each finds an idle engine.
CONF = "*.Server.min_duration = 15000\n*.Server.min_query_count = 60\n*.Server.target_qps = 4\n"


class Run(NamedTuple):
    """A finished run."""

    directory: Path
    record: dict[str, Any]

    def column(self, name: str) -> NDArray[np.int64]:
        """Read a column of requests.parquet without nulls."""
        values: NDArray[np.int64] = pq.read_table(self.directory / "requests.parquet")[name].to_numpy()
        return values


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run Server against one worker behind a network of 20 ms each way, with LoadGen's trace.

    A proxy is the network: the kernel may have no netem.
    """
    path = tmp_path_factory.mktemp("run")
    data = fleet.write_prompts(path / "data.parquet", [[9, 7, 1000 * i] for i in range(60)])
    conf = fleet.write_conf(path / "user.conf", CONF)
    engine = ("--prefill-ms", str(PREFILL_MS), "--step-ms", str(STEP_MS))
    with fleet.workers(path, 1, *engine) as (worker,), proxied([worker.address]) as (proxy,):
        proxy.delay(NETWORK_MS / 1e3)
        far = dataclasses.replace(worker, address=proxy.address)
        flags = fleet.coordinator_flags([far], data, path / "out", "--scenario", "server", "--loadgen-trace")
        done = completed_command(
            [sys.executable, "-c", DELAYED, *flags, "--user-conf", str(conf), "--max-new-tokens", "9"]
        )
    assert done.returncode in (0, 3), done.stderr
    directory = path / "out" / "server" / "performance"
    return Run(directory, json.loads((directory / "run.json").read_text()))


@pytest.mark.long
def test_each_delay_is_found_where_it_was(run: Run) -> None:
    """Medians: lateness 10 ms, coordinator 5, network 20 each way, prefill 54, each within its error."""
    with (run.directory / "requests_summary.csv").open(newline="") as file:
        median_ns = {row["metric"]: float(row["p50"]) for row in csv.DictReader(file)}
    parts = {name.removeprefix("ttft_"): ns for name, ns in median_ns.items() if name.startswith("ttft_")}
    # A busy machine wakes a sleeping thread late by a few ms.
    late_ns = 4 * MS
    assert LATE_MS * MS <= parts["lateness"] <= LATE_MS * MS + late_ns
    assert PAUSE_MS * MS <= parts["coordinator_queue"] <= PAUSE_MS * MS + late_ns
    assert (PREFILL_MS + STEP_MS) * MS - MS <= parts["prefill"] <= (PREFILL_MS + STEP_MS) * MS + late_ns
    # Half of the shortest ping, which takes 40 ms.
    clock_ns = median_ns["clock_error"]
    assert NETWORK_MS * MS <= clock_ns <= NETWORK_MS * MS + late_ns
    for way in ("network_out", "network_back"):
        assert abs(parts[way] - NETWORK_MS * MS) <= clock_ns
    out_ns = run.column("received_ns") - run.column("sent_ns")
    back_ns = run.column("first_arrival_ns") - run.column("first_frame_ns")
    # The proxy only adds to the delay, and on a busy machine by more than late_ns in the median.
    both_ns = np.percentile(out_ns + back_ns, 10)
    assert 2 * NETWORK_MS * MS <= both_ns <= 2 * NETWORK_MS * MS + late_ns
    assert parts["engine_queue"] + parts["frame_hold"] + parts["report"] <= late_ns


@pytest.mark.long
def test_the_parts_of_a_percentile_add_up(run: Run) -> None:
    """In run.json the parts of each percentile are its mean, whatever was spent where."""
    assert run.record["decomposition"]["begins_with"] == "scheduled_ns"
    quantities = run.record["decomposition"]["quantities"]
    assert set(quantities) == {"ttft_ns", "tpot_ns", "latency_ns"}
    for quantity in quantities.values():
        for percentile in quantity["percentiles"].values():
            assert sum(percentile["parts_ns"].values()) == pytest.approx(percentile["mean_ns"], abs=1)


@pytest.mark.long
def test_the_parts_add_up_to_loadgens_own_latency(run: Run) -> None:
    """From schedule to report: within 0.1 ms of the latency in LoadGen's trace for 99 % of the queries."""
    (trace,) = run.directory.glob("*mlperf_log_trace.json")
    ours = run.column("done_reported_ns") - run.column("scheduled_ns")
    off_ns = np.abs(ours - read_trace(trace)[:, 3])
    assert np.sort(off_ns)[int(0.99 * len(off_ns)) - 1] <= MS // 10


@pytest.mark.long
def test_the_computed_schedule_is_the_traced_one(run: Run) -> None:
    """The seed gives each query's time since the first one, to 1 us of what LoadGen traced."""
    (trace,) = run.directory.glob("*mlperf_log_trace.json")
    traced = read_trace(trace)[:, 1]
    (detail,) = run.directory.glob("*mlperf_log_detail.txt")
    lines = [json.loads(line.removeprefix(":::MLLOG ")) for line in detail.read_text().splitlines()]
    values = {line["key"]: line["value"] for line in lines}
    seeded = Seeded(values["effective_schedule_rng_seed"], values["effective_target_qps"])
    assert np.abs(traced - traced[0] - due_times(seeded, len(traced))).max() <= 1000
