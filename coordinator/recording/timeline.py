"""Load of the workers and the coordinator, one sample a second, and its file timeline.parquet."""

import math
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.arrow_buffers import to_arrow, to_texts
from coordinator.scheduling.event_loop import ActiveRun
from coordinator.scheduling.worker_load import WorkerLoad
from coordinator.transport.engine_reading import NO_READING, UNKNOWN
from coordinator.transport.worker_link import WorkerLink
from sut.results.timing.requests_file import write_parquet

INTERVAL_NS = 1_000_000_000
MAX_ROWS = 1 << 20
"""Beyond it, every second sample is dropped: 4 hours of 72 workers, 80 MB."""
COORDINATOR = -1
STATES = ("live", "lost", "test")
_LIVE, _LOST, _TEST = range(len(STATES))

TIMELINE_ROW = np.dtype(
    [
        ("time_ns", "i8"),
        ("worker", "i4"),
        ("state", "i1"),
        ("outstanding", "i4"),
        ("running", "i4"),
        ("waiting", "i4"),
        ("kv_use", "f4"),
        ("tokens", "i8"),
        ("frames", "i8"),
        ("gpu_power_w", "f4"),
        ("gpu_clock_mhz", "f4"),
        ("gpu_memory_bytes", "f8"),
        ("gpu_temperature_c", "f4"),
        ("cpu_s", "f8"),
    ]
)
"""One worker, or the coordinator (worker -1), at one moment.

time_ns: coordinator's monotonic clock; state: index into STATES; outstanding: requests sent and not finished;
running, waiting: as the engine reports them, -1 unknown, the coordinator's waiting are the requests that no
worker has got yet; tokens, frames: received so far; floats: NaN where unknown; cpu_s: the coordinator's.
"""


class Timeline:
    """Samples of one run in memory; one thread calls `sample`."""

    def __init__(self, run: ActiveRun, max_rows: int = MAX_ROWS) -> None:
        """Start without samples.

        Args:
            run: Its counts are read.
            max_rows: Bound of the memory.
        """
        self._run = run
        self._width = len(run.fleet.links) + 1
        self._max_samples = max(max_rows // self._width, 2)
        self._rows = np.zeros((64, self._width), TIMELINE_ROW)
        self.num_samples = 0
        self._interval_ns = INTERVAL_NS
        self._next_ns = 0

    @property
    def samples(self) -> NDArray[np.void]:
        """Dtype TIMELINE_ROW, shape (num_samples, W + 1): the workers in their order, then the coordinator.

        Thread: any.
        """
        return self._rows[: self.num_samples]

    def tick(self) -> None:
        """Take a sample if one is due; called at least once a second."""
        now_ns = time.monotonic_ns()
        if now_ns >= self._next_ns:
            self._next_ns = max(self._next_ns + self._interval_ns, now_ns + self._interval_ns // 2)
            self.sample(now_ns)

    def sample(self, now_ns: int) -> None:
        """Take a sample; costs a few microseconds a worker."""
        scheduler, links = self._run.scheduler, self._run.fleet.links
        rows = [_worker_row(now_ns, *pair) for pair in zip(links, scheduler.loads, strict=True)]
        table = scheduler.table
        frames = sum(row[8] for row in rows)
        counts = (table.num_in_flight, UNKNOWN, scheduler.num_waiting, math.nan, table.num_tokens, frames)
        unknown = (math.nan,) * 4
        rows.append((now_ns, COORDINATOR, _TEST, *counts, *unknown, time.process_time()))
        self._append(np.array(rows, TIMELINE_ROW))

    def write(self, path: Path, metadata: Mapping[str, object], origin_ns: int) -> None:
        """Write the file whole or not at all.

        Args:
            path: Where.
            metadata: Identifies the run and its workers.
            origin_ns: Time of the run's first query, by the coordinator's monotonic clock, which is 0 in the
                file; 0: there was none, and the first sample is at 0.

        Raises:
            OSError: It cannot be written.
        """
        rows = self.samples.flatten()
        if len(rows):
            rows["time_ns"] -= origin_ns or rows["time_ns"][0]
        arrays = {name: _to_column(name, rows) for name in TIMELINE_ROW.names or ()}
        write_parquet(path, pa.table(arrays), metadata)

    def _append(self, row: NDArray[np.void]) -> None:
        if self.num_samples == self._max_samples:
            kept = self._rows[: self.num_samples : 2].copy()
            self._rows[: len(kept)] = kept
            self.num_samples = len(kept)
            self._interval_ns *= 2
        if self.num_samples == len(self._rows):
            grown = np.zeros((min(2 * len(self._rows), self._max_samples), self._width), TIMELINE_ROW)
            grown[: self.num_samples] = self._rows
            self._rows = grown
        self._rows[self.num_samples] = row
        self.num_samples += 1


def _worker_row(now_ns: int, link: WorkerLink, load: WorkerLoad) -> tuple[float, ...]:
    """Return the fields of TIMELINE_ROW; what a lost worker last reported does not hold any more."""
    reading = link.stream.reading if link.live else NO_READING
    return (
        now_ns,
        link.index,
        _LIVE if link.live else _LOST,
        load.outstanding,
        reading.running,
        reading.waiting,
        reading.kv_use,
        sum(counts.num_tokens for counts in link.stream_counts),
        sum(counts.num_frames for counts in link.stream_counts),
        *reading[3:],
        math.nan,
    )


def _to_column(name: str, rows: NDArray[np.void]) -> pa.Array:
    """Convert a field of TIMELINE_ROW to Arrow, unknown values to null; bytes are whole."""
    values = np.ascontiguousarray(rows[name])
    if name == "state":
        return pa.DictionaryArray.from_arrays(to_arrow(values), to_texts(STATES))
    if values.dtype.kind == "f":
        known = ~np.isnan(values)
        whole = name == "gpu_memory_bytes"
        return to_arrow(np.where(known, values, 0).astype(np.int64) if whole else values, known)
    return to_arrow(values, values != UNKNOWN if name in ("running", "waiting") else None)
