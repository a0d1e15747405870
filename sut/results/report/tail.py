"""The end of a run: how long workers had nothing to do while others still worked."""

from typing import NamedTuple

import numpy as np

from sut.log_files import REQUESTS
from sut.results.report.markup import Number
from sut.results.report.run_columns import UNKNOWN, Ints, RunColumns


class Tail(NamedTuple):
    """When each worker ended, and what that cost.

    A worker is idle from its last completion to the run's last completion. The idle share is the mean of
    that time over the workers, divided by the time of the run's last completion. Had all workers ended
    together with the same total work, they would have ended at the mean of their ends.
    """

    workers: Ints
    """(W,) indexes of the workers that finished requests."""
    ends_ns: Ints
    """(W,) last completion of each worker since the first query."""

    @classmethod
    def of(cls, requests: RunColumns) -> "Tail":
        """Find the ends in requests.parquet."""
        rows = requests.known("worker", "done_arrival_ns") & (requests.ints["worker"] >= 0)
        workers, positions = np.unique(requests.ints["worker"][rows], return_inverse=True)
        ends_ns = np.full(len(workers), UNKNOWN)
        np.maximum.at(ends_ns, positions, requests.ints["done_arrival_ns"][rows])
        return cls(workers, ends_ns)

    @property
    def end_ns(self) -> Number:
        """The run's last completion."""
        return self._figure("end_ns", int(self.ends_ns.max()))

    @property
    def flat_end_ns(self) -> Number:
        """When all workers would have ended together: the mean of their ends."""
        return self._figure("flat_end_ns", float(self.ends_ns.mean()))

    @property
    def idle_share(self) -> Number:
        """Share of the workers' time in which they had ended and the run had not."""
        return self._figure("idle_share", float(1 - self.ends_ns.mean() / self.ends_ns.max()))

    @property
    def flat_gain(self) -> Number:
        """How much higher the rate would have been: end / flat end - 1."""
        return self._figure("flat_gain", float(self.ends_ns.max() / self.ends_ns.mean() - 1))

    def idle_ns(self, worker: int) -> Number:
        """Return how long a worker was idle at the end."""
        own = self.ends_ns[self.workers == worker]
        value = int(self.ends_ns.max()) - int(own[0]) if len(own) else None
        return self._figure(f"{worker}/idle_ns", value)

    @staticmethod
    def _figure(name: str, value: float | int | None) -> Number:
        return Number(value, f"{REQUESTS}#tail/{name}")
