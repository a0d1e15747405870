"""Counts the queries over LoadGen's latency limits while a run is in progress."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coordinator.scheduling.request_columns import ttft_ns
from coordinator.scheduling.request_table import RequestTable

# LoadGen takes its times when first token and completion are reported to it, at most about this long after
# they arrived. A TPOT is counted as over only if it is over whatever the report of the first token took.
REPORT_BOUND_NS = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OverLatency:
    """Queries that LoadGen counts as over a limit for certain, by the coordinator's clock."""

    ttft_limit_ns: int
    tpot_limit_ns: int
    num_ttft: int
    """Queries over the limit of TTFT, from LoadGen's call; LoadGen's TTFT is longer by its lateness."""
    num_tpot: int
    """Finished queries over the limit of TPOT."""
    bound: int | None
    """Value of --max-over-latency."""

    @property
    def exceeds(self) -> str:
        """The line that tells why the bound is exceeded; empty if it is not, or without a bound."""
        counts = {"TTFT": (self.num_ttft, self.ttft_limit_ns), "TPOT": (self.num_tpot, self.tpot_limit_ns)}
        return "; ".join(
            f"{num} queries over {limit_ns / 1e6:g} ms {name}, more than --max-over-latency {self.bound}"
            for name, (num, limit_ns) in counts.items()
            if self.bound is not None and num > self.bound
        )


class OverLatencyCounter:
    """Counts the finished queries of a run once each, and those in flight anew each time."""

    def __init__(self, table: RequestTable, settings: Mapping[str, object], bound: int | None) -> None:
        """Take what is fixed.

        Args:
            table: The run's requests.
            settings: LoadGen's, by key of its detail log.
            bound: Value of --max-over-latency.
        """
        self._table = table
        self._bound = bound
        self._ttft_limit_ns = _nanoseconds(settings, "requested_server_ttft_latency")
        self._tpot_limit_ns = _nanoseconds(settings, "requested_server_tpot_latency")
        self._num_seen = self._num_ttft = self._num_tpot = 0

    def count(self, now_ns: int) -> OverLatency:
        """Count; a query that finishes meanwhile may be missed until the next time.

        Args:
            now_ns: By the coordinator's monotonic clock.

        Thread: main.
        """
        self._count_done()
        flying = self._table.rows(self._table.held()[0])
        reached_ns = np.where(flying["first_ns"] > 0, flying["first_ns"], now_ns)
        return OverLatency(
            ttft_limit_ns=self._ttft_limit_ns,
            tpot_limit_ns=self._tpot_limit_ns,
            num_ttft=self._num_ttft + self._num_over(reached_ns - flying["issued_ns"], self._ttft_limit_ns),
            num_tpot=self._num_tpot,
            bound=self._bound,
        )

    def _count_done(self) -> None:
        done = self._table.done[self._num_seen :]
        self._num_seen += len(done)
        self._num_ttft += self._num_over(ttft_ns(done), self._ttft_limit_ns)
        rest = done[(done["first_ns"] > 0) & (done["num_tokens"] > 1)]
        decode_ns = rest["done_ns"] - rest["first_ns"] - REPORT_BOUND_NS
        self._num_tpot += self._num_over(decode_ns // (rest["num_tokens"] - 1), self._tpot_limit_ns)

    @staticmethod
    def _num_over(durations_ns: NDArray[np.int64], limit_ns: int) -> int:
        return int(np.count_nonzero(durations_ns > limit_ns))


def _nanoseconds(settings: Mapping[str, object], key: str) -> int:
    value = settings[key]
    assert isinstance(value, int)
    return value
