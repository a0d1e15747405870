"""Readings of a run's metrics."""

import math
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from common.metrics import Metric, Readings, Series, resident_bytes
from coordinator.config import RunConfig
from coordinator.recording import run_metrics as m
from coordinator.recording.issue_lateness import IssueLateness
from coordinator.recording.jitter import JitterMeter
from coordinator.recording.latency_buckets import LatencyBuckets
from coordinator.recording.recent_rate import RATE_WINDOW_S, RecentRate
from coordinator.scheduling.event_loop import ActiveRun
from coordinator.scheduling.request_columns import tpot_ns, ttft_ns
from coordinator.transport.engine_reading import UNKNOWN, EngineReading
from sut.settings import Scenario


class RunSources(NamedTuple):
    """What the readings are taken from."""

    run: ActiveRun
    count_expected: Callable[[], int | None]
    lateness: IssueLateness
    meter: JitterMeter


class RunReadings:
    """Reads the metrics of one run during its test; each reading costs some 0.3 ms.

    Thread: main. The counts belong to the event loop's thread and may change while they are read, by a
    request or two.
    """

    def __init__(self, run_id: str, config: RunConfig, sources: RunSources) -> None:
        """Take what is fixed."""
        self._sources = sources
        self._num_read = 0
        """Finished requests in the histograms."""
        self._ttft, self._tpot = LatencyBuckets(m.TTFT_BOUNDS_S), LatencyBuckets(m.TPOT_BOUNDS_S)
        self._tokens = RecentRate(time.monotonic())
        self._fixed = _fixed(run_id, config)

    def read(self) -> Readings:
        """Read every metric."""
        self._read_finished()
        pauses = self._sources.meter.telemetry()
        issue = self._sources.lateness.pauses
        causes = {"collection": pauses.gc, "event loop": pauses.loop, "issue": issue}
        return {
            **self._fixed,
            **{metric.name: [Series((), value)] for metric, value in self._counts().items()},
            m.TTFT.name: [Series((), self._ttft.buckets)],
            m.TPOT.name: [Series((), self._tpot.buckets)],
            m.TTFT_PERCENTILES.name: _percentiles(self._ttft),
            m.TPOT_PERCENTILES.name: _percentiles(self._tpot),
            m.LONG_PAUSES.name: [Series((name,), float(found.num_long)) for name, found in causes.items()],
            m.WORST_PAUSE.name: [Series((name,), found.worst_ns / 1e9) for name, found in causes.items()],
            **self._workers(),
        }

    def _counts(self) -> dict[Metric, float]:
        scheduler, fleet = self._sources.run.scheduler, self._sources.run.fleet
        table = scheduler.table
        expected = self._sources.count_expected()
        self._tokens.add(time.monotonic(), table.num_tokens)
        return {
            m.ISSUED: scheduler.num_issued,
            m.COMPLETED: table.num_done,
            **({} if expected is None else {m.EXPECTED: expected}),
            m.IN_FLIGHT: table.num_in_flight,
            m.BACKLOG: scheduler.num_waiting,
            m.TOKENS: table.num_tokens,
            m.TOKENS_PER_S: self._tokens.per_s,
            m.LATENESS: self._sources.lateness.worst_ns(RATE_WINDOW_S) / 1e9,
            m.LOSSES: scheduler.failover.num_losses,
            m.CONTINUED: len(scheduler.failover.continuations),
            m.CPU: time.process_time(),
            m.MEMORY: resident_bytes(),
            m.LIVE_WORKERS: len(fleet.live),
            m.WORKERS: len(fleet.links),
        }

    def _read_finished(self) -> None:
        """Count the requests that have finished since the last reading."""
        done = self._sources.run.scheduler.table.done[self._num_read :]
        self._num_read += len(done)
        self._ttft.add(ttft_ns(done))
        self._tpot.add(tpot_ns(done))

    def _workers(self) -> Readings:
        run = self._sources.run
        losses = Counter(loss.address for loss in run.scheduler.failover.losses if not loss.is_move)
        found: Readings = {metric.name: [] for metric in m.OF_WORKERS}
        for link, outstanding in zip(run.fleet.links, run.scheduler.outstanding, strict=True):
            labels = (link.address,)
            values = {
                m.WORKER_LIVE.name: int(link.live),
                m.WORKER_OUTSTANDING.name: outstanding,
                m.WORKER_TOKENS.name: sum(stream.num_tokens for stream in link.stream_counts),
                m.WORKER_FRAMES.name: sum(stream.num_frames for stream in link.stream_counts),
                m.WORKER_LOSSES.name: losses[link.address],
                **(_engine(link.stream.reading) if link.live else {}),
            }
            for name, value in values.items():
                found[name].append(Series(labels, value))
        return found


def _engine(said: EngineReading) -> dict[str, float]:
    """Return what a worker last said of its engine; what is not known is left out."""
    values = {
        m.WORKER_RUNNING.name: said.running if said.running != UNKNOWN else math.nan,
        m.WORKER_WAITING.name: said.waiting if said.waiting != UNKNOWN else math.nan,
        m.WORKER_KV_USE.name: said.kv_use,
        m.WORKER_POWER.name: said.gpu_power_w,
    }
    return {name: value for name, value in values.items() if not math.isnan(value)}


def _fixed(run_id: str, config: RunConfig) -> Readings:
    """Return the readings that do not change during a run."""
    readings = {m.INFO.name: [Series((run_id, config.scenario, config.mode), 1.0)]}
    if config.scenario is not Scenario.OFFLINE:
        limits = config.scenario.limits
        readings[m.TTFT_LIMIT.name] = [Series((), limits.ttft_ns.value / 1e9)]
        readings[m.TPOT_LIMIT.name] = [Series((), limits.tpot_ns.value / 1e9)]
    return readings


def _percentiles(histogram: LatencyBuckets) -> list[Series]:
    """Return a series for each percentile; none without observations."""
    values = histogram.quantiles_s([percentile / 100 for percentile in m.PERCENTILES])
    return [Series((str(name),), value) for name, value in zip(m.PERCENTILES, values, strict=False)]
