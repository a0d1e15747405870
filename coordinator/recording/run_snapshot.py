"""The figures of a run at one moment, for the live view."""

import time
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from coordinator.recording.answer_lengths import estimate_remaining_s
from coordinator.recording.issue_lateness import IssueLateness
from coordinator.recording.latency_histogram import LatencyHistogram
from coordinator.recording.recent_rate import RATE_WINDOW_S
from coordinator.recording.timeline import INTERVAL_NS, Timeline
from coordinator.scheduling.event_loop import ActiveRun
from coordinator.scheduling.failover import Loss
from coordinator.scheduling.request_columns import tpot_ns, ttft_ns
from coordinator.scheduling.request_table import RequestTable
from coordinator.transport.worker_link import WorkerLink
from sut.early_stopping import allowed_over_latency
from sut.settings import Mode, Scenario

MAX_QUIET_S = 120
"""Longest time since the last frame that is told apart."""
MAX_LOSSES = 5
COSTS_PER_INTERVAL = 1000
"""The percentiles and the remaining time are computed in at most a 1000th of the time."""


class RunPhase(StrEnum):
    """What a run does at the moment."""

    WAITING = "waiting for workers"
    OPENING = "opening streams"
    TEST = "test"
    LOGS = "reading logs"
    GRADING = "grading"


class LatencyFigures(NamedTuple):
    """One latency of the queries so far."""

    name: str
    num_queries: int
    p50_ns: int
    p99_ns: int
    limit_ns: int | None
    """LoadGen's limit of the p99; None: there is none."""
    num_over: int
    """Queries above the limit."""
    num_allowed: int | None
    """Most queries above the limit with which LoadGen's early stopping passes; None: not known."""


class WorkerFigures(NamedTuple):
    """One worker."""

    address: str
    host: str
    state: str
    outstanding: int = 0
    running: int = -1
    """-1: unknown, as for `waiting`."""
    waiting: int = -1
    kv_use: float = float("nan")
    """NaN: unknown, as for `tokens_per_s`."""
    tokens_per_s: float = float("nan")
    quiet_s: float | None = None
    """Since its last frame, to a second, at most MAX_QUIET_S; None: it has sent none."""


class LiveFigures(NamedTuple):
    """A test that has begun."""

    elapsed_s: float
    num_done: int
    num_expected: int | None
    num_in_flight: int
    num_waiting: int
    tokens_per_s: float
    """NaN: not known yet."""
    remaining_s: float | None
    latencies: list[LatencyFigures]
    lateness_ns: int
    """Largest lateness of issue in the last RATE_WINDOW_S."""
    losses: list[Loss]
    """The latest MAX_LOSSES, oldest first; moves among them."""


class Snapshot(NamedTuple):
    """What the live view shows."""

    title: str
    phase: RunPhase
    phase_s: float
    """Since the phase began."""
    workers: list[WorkerFigures]
    run: LiveFigures | None
    """None before the test."""


class LatencyBounds(NamedTuple):
    """LoadGen's limits of TTFT and TPOT, and the share of queries that must meet them."""

    ttft_ns: int | None = None
    """None: there is no limit, as for TPOT."""
    tpot_ns: int | None = None
    percentile: float = 0.99

    @classmethod
    def of(cls, scenario: Scenario, mode: Mode, settings: Mapping[str, Any]) -> "LatencyBounds":
        """Select the limits of a run; only performance runs in Server and Interactive have any.

        Args:
            scenario: The run's scenario.
            mode: The run's mode.
            settings: LoadGen's settings by key of the detail log.
        """
        if scenario is Scenario.OFFLINE or mode is Mode.ACCURACY:
            return cls()
        return cls(
            int(settings["requested_server_ttft_latency"]),
            int(settings["requested_server_tpot_latency"]),
            float(settings["effective_target_latency_percentile"]),
        )


class FollowedRun(NamedTuple):
    """Sources of the figures of a test."""

    run: ActiveRun
    count_expected: Callable[[], int | None]
    """Returns the number of requests of the whole run, None if it is not known yet."""
    lateness: IssueLateness
    timeline: Timeline
    bounds: LatencyBounds


class RunFollower:
    """Computes the figures of a test; used by one thread while others change the run."""

    def __init__(self, followed: FollowedRun, now_s: Callable[[], float] = time.monotonic) -> None:
        """Start the clock.

        Args:
            followed: Sources.
            now_s: The clock.
        """
        self._followed = followed
        self._now_s = now_s
        self._start_s = now_s()
        self._num_read = 0
        self._ttft = LatencyHistogram(followed.bounds.ttft_ns)
        self._tpot = LatencyHistogram(followed.bounds.tpot_ns)
        self._latencies: list[LatencyFigures] = []
        self._remaining_s: float | None = None
        self._next_s = self._computed_s = 0.0

    def figures(self) -> LiveFigures:
        """Return the figures now."""
        scheduler, now_s = self._followed.run.scheduler, self._now_s()
        rate = self._tokens_per_s()[-1]
        if now_s >= self._next_s:
            self._compute(now_s, float(np.nan_to_num(rate)))
        table, losses = scheduler.table, scheduler.failover.losses
        passed_s = now_s - self._computed_s
        return LiveFigures(
            elapsed_s=now_s - self._start_s,
            num_done=table.num_done,
            num_expected=self._followed.count_expected(),
            num_in_flight=table.num_in_flight,
            num_waiting=scheduler.num_waiting,
            tokens_per_s=float(rate),
            remaining_s=None if self._remaining_s is None else max(self._remaining_s - passed_s, 0.0),
            latencies=self._latencies,
            lateness_ns=self._followed.lateness.worst_ns(RATE_WINDOW_S),
            losses=list(losses[-MAX_LOSSES:]),
        )

    def workers(self) -> list[WorkerFigures]:
        """Return the figures of every worker."""
        samples = self._followed.timeline.samples
        links = self._followed.run.fleet.links
        if not len(samples):
            return waiting_workers(links)
        rates, quiet_s = self._tokens_per_s(), _quiet_s(samples[-MAX_QUIET_S:])
        return [
            WorkerFigures(
                address=link.address,
                host=link.info.hostname,
                state="live" if link.live else "lost",
                outstanding=int(row["outstanding"]),
                running=int(row["running"]),
                waiting=int(row["waiting"]),
                kv_use=float(row["kv_use"]),
                tokens_per_s=float(rate),
                quiet_s=quiet if row["frames"] else None,
            )
            for link, row, rate, quiet in zip(links, samples[-1], rates, quiet_s, strict=False)
        ]

    def _tokens_per_s(self) -> NDArray[np.float64]:
        """Return the rate of each worker and of all together over RATE_WINDOW_S; NaN before two samples."""
        samples = self._followed.timeline.samples
        if len(samples) < 2:
            return np.full(len(self._followed.run.fleet.links) + 1, np.nan)
        ages_ns = samples[-1, 0]["time_ns"] - samples["time_ns"][:, 0]
        row = min(int((ages_ns > RATE_WINDOW_S * 1e9).sum()), len(samples) - 2)
        tokens = samples["tokens"][-1] - samples["tokens"][row]
        rates: NDArray[np.float64] = tokens / max(float(ages_ns[row]), 1.0) * 1e9
        return rates

    def _compute(self, now_s: float, tokens_per_s: float) -> None:
        """Compute percentiles and remaining time, and when to do it again."""
        began_s = time.thread_time()
        scheduler, expected = self._followed.run.scheduler, self._followed.count_expected()
        self._latencies = self._read_latencies(scheduler.table)
        self._remaining_s = estimate_remaining_s(scheduler, expected, tokens_per_s, now_s - self._start_s)
        self._computed_s = now_s
        self._next_s = now_s + COSTS_PER_INTERVAL * (time.thread_time() - began_s)

    def _read_latencies(self, table: RequestTable) -> list[LatencyFigures]:
        """Add the requests finished since the last call; those in flight have a TTFT, too."""
        running = table.rows(table.held()[0])
        new = table.done[self._num_read :]
        self._num_read += len(new)
        self._ttft.add(ttft_ns(new))
        self._tpot.add(tpot_ns(new))
        ttft = self._ttft.with_more(ttft_ns(running))
        return [self._describe("TTFT", ttft), self._describe("TPOT", self._tpot)]

    def _describe(self, name: str, histogram: LatencyHistogram) -> LatencyFigures:
        num_expected = self._followed.count_expected()
        is_bounded = histogram.limit_ns is not None and num_expected is not None
        p50_ns, p99_ns = histogram.percentiles_ns((0.5, 0.99))
        return LatencyFigures(
            name=name,
            num_queries=histogram.count,
            p50_ns=p50_ns,
            p99_ns=p99_ns,
            limit_ns=histogram.limit_ns,
            num_over=histogram.num_over,
            num_allowed=_num_allowed(num_expected or 0, self._followed.bounds.percentile)
            if is_bounded
            else None,
        )


def waiting_workers(links: Iterable[WorkerLink]) -> list[WorkerFigures]:
    """Return the workers before the test, each with the result of its latest probe."""
    return [WorkerFigures(link.address, link.info.hostname, link.probed.detail) for link in links]


@lru_cache(maxsize=1)
def _num_allowed(num_queries: int, percentile: float) -> int:
    return allowed_over_latency(num_queries, percentile)


def _quiet_s(samples: NDArray[np.void]) -> list[float]:
    """Return for each worker how long its number of frames has not changed, in seconds."""
    same = samples["frames"] == samples["frames"][-1]
    firsts = same.argmax(axis=0)
    times_ns = samples["time_ns"][:, 0]
    quiet_ns: list[int] = (times_ns[-1] - times_ns[firsts]).tolist()
    return [quiet / INTERVAL_NS for quiet in quiet_ns]
