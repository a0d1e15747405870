"""Requests of a run that tests send and answer by hand: a real table, with the counts of a scheduler."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from coordinator.scheduling.request_columns import NewRequests
from coordinator.scheduling.request_table import RequestTable
from coordinator.scheduling.scheduler import Scheduler
from protos.columns import TokenColumns

STOP = 1


class HandmadeScheduler(Scheduler):
    """A scheduler without workers: nothing is dispatched but by the test."""

    def __init__(self, num_issued: int = 0) -> None:
        self.table = RequestTable(1000)
        self.num_issued = num_issued
        self.failover: Any = SimpleNamespace(losses=[])

    def send(self, num: int, issued_ns: int = 0) -> Any:
        """Send requests to worker 0; returns their names."""
        ids = np.arange(num, dtype=np.uint64)
        samples = np.arange(num, dtype=np.int64)
        issued = np.full(num, issued_ns)
        lens = np.ones(num, np.int64)
        return self.table.assign(NewRequests(ids, samples, lens, issued, issued_ns, samples), 0)

    def receive(self, names: Any, count: int, at_ns: int, *, ends: bool = False) -> None:
        """Receive a frame with that many tokens for each request."""
        num = len(names)
        columns = TokenColumns(
            produced_ns=0,
            requests=names,
            counts=np.full(num, count, np.uint32),
            tokens=np.zeros(num * count, np.int32),
            finished_rows=np.arange(num if ends else 0, dtype=np.uint32),
            finish_reasons=np.full(num if ends else 0, STOP, np.uint8),
        )
        arrivals = self.table.add_tokens(0, columns, at_ns)
        self.table.finish(arrivals.finished_slots, arrivals.finish_reasons, at_ns)
