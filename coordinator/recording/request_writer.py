"""Writes a run's requests and timeline, and takes the requests' times apart, when the workers are free.

What goes wrong here changes nothing of the verdict, which is on disk before.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from coordinator.config import RunConfig
from coordinator.recording.file_thread import FileThread
from coordinator.recording.finished_requests import collect_requests
from coordinator.recording.run_dir import RunDir
from coordinator.recording.run_record import RunRecord
from coordinator.recording.timeline import Timeline
from coordinator.scheduling.event_loop import ActiveRun
from sut.loadgen import LoadGenSettings
from sut.log_files import REQUESTS, TIMELINE, TRACE, find_log
from sut.results.loadgen_figures import LoadGenSpread
from sut.results.timing.decomposition import RunDecomposition
from sut.results.timing.loadgen_schedule import Schedule, Seeded, add_seeded_schedule, add_traced_schedule
from sut.results.timing.request_records import RequestRecords
from sut.results.timing.requests_file import (
    JSONL_NAME,
    SUMMARY_NAME,
    write_jsonl,
    write_requests,
    write_summary,
)
from sut.settings import Scenario

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RequestWriter:
    """Writes requests.parquet, requests_summary.csv, requests.jsonl and timeline.parquet of a run."""

    config: RunConfig
    run_id: str
    run_dir: RunDir
    files: FileThread
    settings: LoadGenSettings
    active_run: ActiveRun
    timeline: Timeline

    def store(self, record: RunRecord) -> RunRecord:
        """Write the files of a complete run; stores and returns the record with the decomposition.

        Thread: main.
        """
        try:
            write = partial(self._write, record.mode, record.loadgen_latencies)
            found = self.files.call_while_active(write, self.config.log_stall_timeout_s)
            timed = replace(record, decomposition=found)
            self.run_dir.write(timed)
        except Exception as error:
            # The verdict does not depend on these files.
            logger.warning("%s and %s were not written: %r", REQUESTS, TIMELINE, error, exc_info=True)
            return record
        return timed

    def rescue(self, timeout_s: float) -> None:
        """Write the files of a run that has failed: the requests that had finished.

        Raises:
            OSError: They cannot be written, or not in time.

        Thread: main.
        """
        self.files.call(partial(self._write, self.run_dir.path.name, {}), timeout_s)

    def _write(self, mode: str, loadgens: Mapping[str, LoadGenSpread]) -> RunDecomposition:
        """Thread: file thread."""
        records = collect_requests(self.active_run)
        found = RunDecomposition.of(records, self._add_schedule(records, loadgens))
        metadata = {
            "scenario": self.config.scenario,
            "mode": mode,
            "run_id": self.run_id,
            "addresses": [link.address for link in self.active_run.fleet.links],
        }
        directory = self.run_dir.path
        self.timeline.write(directory / TIMELINE, metadata, self.active_run.scheduler.first_issued_ns)
        write_requests(directory / REQUESTS, records, metadata)
        write_summary(directory / SUMMARY_NAME, records)
        if self.config.requests_jsonl:
            write_jsonl(directory / JSONL_NAME, directory / REQUESTS)
        return found

    def _add_schedule(
        self, records: RequestRecords, loadgens: Mapping[str, LoadGenSpread]
    ) -> Schedule | None:
        """Fill in when LoadGen wanted each query, as far as it is known.

        Thread: file thread.
        """
        if self.config.loadgen_trace:
            trace = find_log(self.run_dir.path, TRACE)
            # A run that fails before LoadGen has begun has none.
            return add_traced_schedule(records, trace) if trace.is_file() else None
        qps = self.settings.logged["effective_target_qps"]
        is_offline = self.config.scenario is Scenario.OFFLINE
        seeded = Seeded(self.settings.seeds.schedule, 0.0 if is_offline else float(str(qps)))
        return add_seeded_schedule(records, seeded, loadgens)
