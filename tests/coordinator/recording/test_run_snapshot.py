"""The figures of the live view, over a request table and a fleet that are filled by hand."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from coordinator.recording.issue_lateness import IssueLateness
from coordinator.recording.run_snapshot import FollowedRun, LatencyBounds, RunFollower
from coordinator.recording.timeline import Timeline
from coordinator.transport.engine_reading import EngineReading
from sut.settings import Mode, Scenario
from tests.coordinator.recording.handmade_requests import HandmadeScheduler

MS, S = 1_000_000, 1_000_000_000
BOUNDS = LatencyBounds(ttft_ns=100 * MS, tpot_ns=10 * MS, percentile=0.99)


class HandmadeRun:
    """A run of two workers; the first one gets all requests."""

    def __init__(self, expected: int | None = 460, max_rows: int = 3_000) -> None:
        self.links = [self._link(0), self._link(1)]
        self.loads: list[Any] = [SimpleNamespace(outstanding=0), SimpleNamespace(outstanding=0)]
        self.scheduler = HandmadeScheduler()
        self.scheduler.loads = self.loads
        fleet = SimpleNamespace(links=self.links, live=self.links)
        self.run = cast(Any, SimpleNamespace(scheduler=self.scheduler, fleet=fleet))
        self.timeline = Timeline(self.run, max_rows)
        self.now_s = 0.0
        followed = FollowedRun(self.run, lambda: expected, IssueLateness(), self.timeline, BOUNDS)
        self.follower = RunFollower(followed, lambda: self.now_s)

    def _link(self, index: int) -> Any:
        reading = EngineReading(running=5, waiting=2, kv_use=0.25, gpu_power_w=700.0, gpu_memory_bytes=6e10)
        counts = SimpleNamespace(num_tokens=0, num_frames=0)
        info = SimpleNamespace(hostname=f"node-{index}")
        return SimpleNamespace(
            index=index,
            address=f"10.0.0.{index}:50051",
            info=info,
            live=True,
            stream=SimpleNamespace(reading=reading),
            stream_counts=[counts],
        )

    def answer(self, num: int, *, ttft_ms: int, done_ms: int | None, num_tokens: int = 11) -> None:
        """Issue requests at 1 s; their first tokens come after `ttft_ms`, all others at `done_ms`."""
        names = self.scheduler.send(num, S)
        self.scheduler.num_issued += num
        self.scheduler.receive(names, 1, S + ttft_ms * MS)
        if done_ms is not None:
            self.scheduler.receive(names, num_tokens - 1, S + done_ms * MS, ends=True)

    def frame(self, worker: int, num_tokens: int) -> None:
        """Count a frame of a worker."""
        counts = self.links[worker].stream_counts[0]
        counts.num_frames += 1
        counts.num_tokens += num_tokens


def test_queries_over_a_limit_are_counted_once_and_compared_with_what_loadgen_allows() -> None:
    """Of 460 queries LoadGen allows none over a limit: two TTFTs above 100 ms lose it, TPOTs of 10 ms do not.

    The table is read in three parts; a query in flight has a TTFT, too, and is not counted again at its end.
    """
    run = HandmadeRun()
    run.answer(3, ttft_ms=50, done_ms=150)
    first = run.follower.figures()
    assert [(3, 0, 0), (3, 0, 0)] == [latency[1:2] + latency[5:] for latency in first.latencies]
    run.answer(1, ttft_ms=101, done_ms=201)
    run.answer(1, ttft_ms=102, done_ms=None)
    for now_s in (100.0, 200.0):
        run.now_s = now_s
        ttft, tpot = run.follower.figures().latencies
        assert (5, 2, 0) == (ttft.num_queries, ttft.num_over, ttft.num_allowed)
        assert (4, 0, 0) == (tpot.num_queries, tpot.num_over, tpot.num_allowed)
    assert math.isclose(50 * MS, ttft.p50_ns, rel_tol=0.01)
    assert math.isclose(10 * MS, tpot.p99_ns, rel_tol=0.01)


def test_only_performance_runs_in_server_and_interactive_have_limits() -> None:
    """The limits are LoadGen's settings."""
    settings = {
        "requested_server_ttft_latency": 7,
        "requested_server_tpot_latency": 8,
        "effective_target_latency_percentile": 0.9,
    }
    assert LatencyBounds(7, 8, 0.9) == LatencyBounds.of(Scenario.SERVER, Mode.PERFORMANCE, settings)
    for scenario, mode in ((Scenario.OFFLINE, Mode.PERFORMANCE), (Scenario.SERVER, Mode.ACCURACY)):
        assert LatencyBounds() == LatencyBounds.of(scenario, mode, settings)


def test_without_the_number_of_queries_nothing_is_said_of_early_stopping() -> None:
    """LoadGen has not written it yet: no allowance, no remaining time."""
    run = HandmadeRun(expected=None)
    run.answer(3, ttft_ms=50, done_ms=150)
    figures = run.follower.figures()
    assert [None, None] == [latency.num_allowed for latency in figures.latencies]
    assert figures.remaining_s is None


def test_rates_are_means_over_ten_seconds_and_a_silent_worker_is_seen() -> None:
    """Worker 0 brings 50 tokens a second for 15 s, worker 1 only in the first 5 s."""
    run = HandmadeRun()
    for second in range(16):
        run.frame(0, 50)
        if second < 5:
            run.frame(1, 50)
        run.timeline.sample(second * S)
    first, second_worker = run.follower.workers()
    assert (50.0, 0.0) == (first.tokens_per_s, second_worker.tokens_per_s)
    # The last frame of worker 1 is in the sample of second 4; the latest sample is of second 15.
    assert (0.0, 11.0) == (first.quiet_s, second_worker.quiet_s)
    assert ("node-0", "live", 5, 2, 0.25) == (first.host, first.state, *first[4:7])


def test_before_two_samples_no_rate_is_known() -> None:
    """In the first second a run has no rate, which is not a rate of 0; nor has it a remaining time."""
    run = HandmadeRun()
    run.answer(3, ttft_ms=50, done_ms=150)
    run.timeline.sample(S)
    figures = run.follower.figures()
    rates = [figures.tokens_per_s, *(worker.tokens_per_s for worker in run.follower.workers())]
    assert [True] * 3 == [math.isnan(rate) for rate in rates]
    assert figures.remaining_s is None
    run.frame(0, 50)
    run.timeline.sample(2 * S)
    assert [50.0, 0.0] == [worker.tokens_per_s for worker in run.follower.workers()]


def test_a_lost_worker_has_no_load() -> None:
    """What it last reported does not hold any more."""
    run = HandmadeRun()
    run.links[1].live = False
    run.timeline.sample(S)
    worker = run.follower.workers()[1]
    assert ("lost", -1, -1, None) == (worker.state, worker.running, worker.waiting, worker.quiet_s)


def test_a_long_run_keeps_a_bounded_number_of_samples() -> None:
    """Three rows a sample, at most 30 rows: at most 10 of 100 samples are left, both ends too."""
    run = HandmadeRun(max_rows=30)
    for second in range(100):
        run.timeline.sample(second * S)
    times_ns = run.timeline.samples["time_ns"][:, 0]
    assert 5 <= len(times_ns) <= 10
    assert (0, 99 * S) == (times_ns[0], times_ns[-1])


def test_the_file_counts_time_from_the_first_query(tmp_path: Path) -> None:
    """Queries were issued at 1 s: samples of seconds 0 and 2 are at -1 s and 1 s; the unknown is null."""
    run = HandmadeRun()
    run.timeline.sample(0)
    run.answer(2, ttft_ms=50, done_ms=None)
    run.links[1].live = False
    run.timeline.sample(2 * S)
    path = tmp_path / "timeline.parquet"
    run.timeline.write(path, {"run_id": "r"}, S)
    rows = pq.read_table(path).to_pylist()
    assert {"format": 1, "run_id": "r"} == json.loads(pq.read_schema(path).metadata[b"tokenfleet"])
    assert [-S] * 3 + [S] * 3 == [row["time_ns"] for row in rows]
    assert [0, 1, -1] * 2 == [row["worker"] for row in rows]
    assert ["live", "lost", "test"] == [row["state"] for row in rows[3:]]
    worker, lost, coordinator = rows[3:]
    assert (5, 2, 0.25, 700.0, 60_000_000_000, None, None) == (
        *(worker[name] for name in ("running", "waiting", "kv_use", "gpu_power_w", "gpu_memory_bytes")),
        worker["gpu_clock_mhz"],
        worker["cpu_s"],
    )
    assert {None} == {lost[name] for name in ("running", "waiting", "kv_use", "gpu_power_w")}
    assert (2, 0, 2, None) == tuple(
        coordinator[name] for name in ("outstanding", "waiting", "tokens", "running")
    )
    assert coordinator["cpu_s"] > 0
    assert [path] == list(tmp_path.iterdir())


def test_the_directory_may_have_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrow would take a relative path like `gpt:oss/timeline.parquet` for the URI of a file system."""
    monkeypatch.chdir(tmp_path)
    path = Path("gpt:oss/timeline.parquet")
    path.parent.mkdir()
    HandmadeRun().timeline.write(path, {}, 0)
    assert 0 == pq.read_metadata(tmp_path / path).num_rows


def test_without_a_query_the_file_begins_at_0(tmp_path: Path) -> None:
    """A run that failed before LoadGen issued anything: samples of seconds 5 and 6, or none at all."""
    for seconds in ([5, 6], []):
        run = HandmadeRun()
        for second in seconds:
            run.timeline.sample(second * S)
        path = tmp_path / "timeline.parquet"
        run.timeline.write(path, {"run_id": "r"}, 0)
        times_ns = pq.read_table(path)["time_ns"].to_pylist()
        assert [(second - 5) * S for second in seconds for _ in range(3)] == times_ns
