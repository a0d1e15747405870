"""The end of a run: how long workers had nothing to do while others still worked."""

from typing import NamedTuple

import numpy as np

from sut.log_files import REQUESTS
from sut.results.report.markup import Number
from sut.results.report.run_columns import Ints, RunColumns


class Tail(NamedTuple):
    """When each worker ended, and what that cost.

    A worker is idle from its last completion to the run's last completion. The idle share is the mean of
    that time over the workers, divided by the time of the run's last completion. Had all workers ended
    together with the same total work, they would have ended at the mean of their ends.
    """

    ends_ns: Ints
    """(W,) last completion of each worker since the first query; 0 for a worker that finished no request."""

    @classmethod
    def of(cls, requests: RunColumns, num_workers: int) -> "Tail | None":
        """Find the ends in requests.parquet.

        Args:
            requests: Its columns.
            num_workers: Workers of the run, by run.json.

        Returns:
            None if no worker finished a request after the first query was issued.
        """
        workers = requests.ints["worker"]
        rows = requests.known("done_arrival_ns") & (workers >= 0) & (workers < num_workers)
        ends_ns = np.zeros(num_workers, np.int64)
        np.maximum.at(ends_ns, workers[rows], requests.ints["done_arrival_ns"][rows])
        return cls(ends_ns) if ends_ns.any() else None

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
        return self._figure(f"{worker}/idle_ns", int(self.ends_ns.max() - self.ends_ns[worker]))

    @staticmethod
    def _figure(name: str, value: float | int) -> Number:
        return Number(value, f"{REQUESTS}#tail/{name}")
