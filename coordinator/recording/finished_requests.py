"""Collects the finished requests of a run with all their times."""

from array import array

import numpy as np
from numpy.typing import NDArray

from coordinator.scheduling.event_loop import ActiveRun
from coordinator.scheduling.worker_load import NUM_BEGIN_COLUMNS, NUM_END_COLUMNS
from sut.results.timing.request_records import RequestRecords, StreamTimes, build_records

_NUM_PING_COLUMNS = 3


def collect_requests(run: ActiveRun) -> RequestRecords:
    """Collect the requests that have finished so far.

    Thread: any; the arrays of a run that is still on are copied before they are read.
    """
    streams = [
        StreamTimes(
            worker=load.index,
            stream=number,
            pings=_rows(times.counts.pings, _NUM_PING_COLUMNS),
            begins=_rows(times.begins, NUM_BEGIN_COLUMNS),
            ends=_rows(times.ends, NUM_END_COLUMNS),
        )
        for load in run.scheduler.loads
        for number, times in enumerate(load.request_times)
    ]
    return build_records(run.scheduler.table.done, streams, run.scheduler.first_issued_ns)


def _rows(numbers: "array[int]", num_columns: int) -> NDArray[np.int64]:
    """Copy whole rows: the event loop could not append to an array that numpy reads."""
    copied = np.array(numbers[: len(numbers) // num_columns * num_columns], np.int64)
    return copied.reshape(-1, num_columns)
