"""Composes the record of a run, at any moment after its workers have accepted it."""

import contextlib
import dataclasses
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from common.flags import changed_flags
from coordinator.config import RunConfig
from coordinator.recording.issue_lateness import IssueLateness
from coordinator.recording.jitter import MIN_PAUSE_NS, PauseList
from coordinator.recording.over_latency import OverLatency, OverLatencyCounter
from coordinator.recording.run_record import RunRecord, Summary
from coordinator.recording.timeline import Timeline
from coordinator.scheduling.event_loop import ActiveRun
from coordinator.transport.worker_host import WorkerHost
from sut.benchmark import find_round
from sut.dataset import Dataset
from sut.loadgen import LoadGenSettings
from sut.results.loadgen_figures import LoadGenFigures
from sut.results.verdict import Verdict
from sut.settings import GenerationConfig, Scenario


class RunTimes:
    """When the run and its test began and ended."""

    def __init__(self) -> None:
        """Begin the run."""
        self.started_utc = datetime.now(UTC).isoformat(timespec="seconds")
        self._started_s = self._test_began_s = time.monotonic()
        self._test_began_cpu_s = 0.0
        self.ready_s = 0.0
        """From the begin of the run to StartTest; 0 before it."""
        self.wall_s = 0.0
        """Duration of StartTest; 0 before its end."""
        self.test_cpu_s = 0.0
        """CPU time of this process during StartTest; 0 before its end."""

    def begin_test(self) -> None:
        """Note that StartTest begins.

        Thread: main.
        """
        self._test_began_s = time.monotonic()
        self._test_began_cpu_s = time.process_time()
        self.ready_s = self._test_began_s - self._started_s

    def end_test(self) -> None:
        """Note that StartTest has ended.

        Thread: main.
        """
        self.wall_s = time.monotonic() - self._test_began_s
        self.test_cpu_s = time.process_time() - self._test_began_cpu_s


class RecordedInputs(NamedTuple):
    """What the record has of the run's files."""

    run_dir: Path
    """Directory of the run's own files."""
    dataset: Dataset
    generation: GenerationConfig


class Recorder:
    """Joins what is fixed for a run with what the event loop has counted."""

    def __init__(
        self,
        run_id: str,
        config: RunConfig,
        inputs: RecordedInputs,
        settings: LoadGenSettings,
        active_run: ActiveRun,
    ) -> None:
        """Take what is fixed.

        Args:
            run_id: Names the run.
            config: Its flags.
            inputs: Its files.
            settings: LoadGen's.
            active_run: The run on its workers.
        """
        self.run_id = run_id
        self._config = config
        self._inputs = inputs
        self._round = find_round(settings.seeds)
        self._active_run = active_run
        self.issue_lateness = IssueLateness()
        """Measures during the test."""
        self.pauses = PauseList()
        """Receives the pauses of the event loop and of garbage collections."""
        self.timeline = Timeline(active_run)
        """Samples during the test."""
        self.over_latency = OverLatencyCounter(
            active_run.scheduler.table, settings.logged, config.max_over_latency
        )
        """Counts during the test."""
        self._host = WorkerHost.of_this_process()
        self._versions = _versions() | ({"commit": self._host.commit} if self._host.commit else {})

    def record(
        self,
        verdict: Verdict,
        times: RunTimes,
        figures: LoadGenFigures,
        files_sha256: Mapping[str, str] = MappingProxyType({}),
    ) -> RunRecord:
        """Compose the record.

        Args:
            verdict: The outcome so far.
            times: Of this run.
            figures: LoadGen's own; empty before the end of its test.
            files_sha256: Of LoadGen's logs and confs; empty before the verdict.

        Thread: main.
        """
        data = self._inputs.dataset
        return RunRecord(
            run_id=self.run_id,
            scenario=self._config.scenario,
            mode=self._inputs.run_dir.name,
            directory=str(self._inputs.run_dir.absolute()),
            verdict=verdict,
            started_utc=times.started_utc,
            ready_s=times.ready_s,
            wall_s=times.wall_s,
            coordinator_cpu_s=time.process_time(),
            test_cpu_s=times.test_cpu_s,
            config=dataclasses.asdict(self._config),
            changed_flags=changed_flags(self._config),
            generation=dataclasses.asdict(self._inputs.generation),
            dataset={"path": str(data.path), "sha256": data.sha256, "num_samples": data.num_samples},
            versions=self._versions,
            host=self._host,
            round=None if self._round is None else self._round.name,
            spec_hash=self._active_run.spec_hash,
            loadgen=figures.headline,
            loadgen_bounds=figures.bounds,
            loadgen_latencies=figures.latencies,
            files_sha256=dict(files_sha256),
            over_latency=self._over_latency(),
            summary=Summary.of(self._active_run, self.issue_lateness.measured_ns()),
            origin_ns=self._active_run.scheduler.first_issued_ns,
            pauses=self._long_pauses(),
        )

    def _long_pauses(self) -> list[dict[str, object]]:
        """List the pauses with their begin since the first query."""
        late = PauseList()
        for began_ns, duration_ns in self.issue_lateness.late_periods(MIN_PAUSE_NS):
            late.add("issue", began_ns, duration_ns)
        origin = self._active_run.scheduler.first_issued_ns
        found = [*self.pauses.in_order(), *late.in_order()]
        return [pause._replace(began_ns=pause.began_ns - origin)._asdict() for pause in found]

    def _over_latency(self) -> OverLatency | None:
        """Count the queries over a limit; None where LoadGen has no limits."""
        if self._config.scenario is Scenario.OFFLINE or self._config.accuracy:
            return None
        return self.over_latency.count(time.monotonic_ns())


def _versions() -> dict[str, str]:
    """Collect versions; the project itself may run from a checkout that is not installed."""
    found = {"python": platform.python_version(), "tokenfleet": "checkout"}
    with contextlib.suppress(PackageNotFoundError):
        found["tokenfleet"] = version("tokenfleet")
    return found | {name: version(name) for name in ("mlcommons_loadgen", "grpcio", "numpy")}
