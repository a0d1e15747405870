"""Detect queries older than their deadline, by a vectorized check of all requests in flight."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from coordinator.scheduling.request_columns import Slots, TokenCounts
from coordinator.scheduling.request_table import RequestTable


class Overdue(NamedTuple):
    """A request older than its deadline."""

    sample: int
    worker: str
    age_s: float
    """Time since its worker got it, in seconds."""
    tokens: int
    """Tokens received so far."""
    since_token_s: float
    """Time since the last token, or since its worker got the request; resolution 1 s."""

    def __str__(self) -> str:
        return (
            f"sample {self.sample} on {self.worker}: {self.age_s:.0f} s old, {self.tokens} tokens, "
            f"the last {self.since_token_s:.0f} s ago"
        )


class OverdueDetector:
    """Checks the age of every request in flight; every method runs on the event loop's thread."""

    def __init__(self, table: RequestTable, timeout_s: float) -> None:
        """Create a detector.

        Args:
            table: Holds the requests.
            timeout_s: A request that has been on its worker for longer is overdue.
        """
        self._table = table
        self._timeout_ns = int(timeout_s * 1e9)
        self._seen_tokens = np.zeros(0, np.int64)
        self._changed_ns = np.zeros(0, np.int64)
        self._listed: set[int] = set()

    def find(self, now_ns: int) -> Slots:
        """Return the requests, (R,), that have become overdue since the previous call."""
        slots, num_tokens, given_ns = self._table.held()
        self._note_tokens(slots, num_tokens, now_ns)
        late = slots[now_ns - given_ns > self._timeout_ns]
        names = self._table.names(late).tolist()
        fresh = np.array([name not in self._listed for name in names], np.bool_)
        self._listed.update(names)
        found: Slots = late[fresh]
        return found

    def describe(self, slots: Slots, addresses: Sequence[str], now_ns: int) -> list[Overdue]:
        """Describe overdue requests; `addresses` lists all workers of the fleet."""
        return [
            Overdue(
                sample=int(row["sample"]),
                worker=addresses[row["worker"]],
                age_s=(now_ns - int(row["given_ns"])) / 1e9,
                tokens=int(row["num_tokens"]),
                since_token_s=(now_ns - max(int(changed_ns), int(row["given_ns"]))) / 1e9,
            )
            for row, changed_ns in zip(self._table.rows(slots), self._changed_ns[slots], strict=True)
        ]

    def _note_tokens(self, slots: Slots, num_tokens: TokenCounts, now_ns: int) -> None:
        """Record when the token count of each slot last changed."""
        missing = int(slots.max(initial=-1)) + 1 - len(self._seen_tokens)
        if missing > 0:
            self._seen_tokens = np.concatenate([self._seen_tokens, np.zeros(missing, np.int64)])
            self._changed_ns = np.concatenate([self._changed_ns, np.zeros(missing, np.int64)])
        moved = slots[self._seen_tokens[slots] != num_tokens]
        self._seen_tokens[slots] = num_tokens
        self._changed_ns[moved] = now_ns
