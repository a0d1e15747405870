"""Queries that take too long: found once a second over all of them at once, listed for a person."""

from typing import NamedTuple

import numpy as np

from coordinator.scheduling.request_rows import Slots
from coordinator.scheduling.request_table import RequestTable
from coordinator.transport.worker_link import WorkerLink


class Overdue(NamedTuple):
    """A request older than its deadline."""

    sample: int
    worker: str
    age_s: float
    """Since its worker got it."""
    tokens: int
    """Received so far."""
    since_token_s: float
    """Since the last of them came, or since its worker got it; looked at once a second."""

    def __str__(self) -> str:
        return (
            f"sample {self.sample} on {self.worker}: {self.age_s:.0f} s old, {self.tokens} tokens, "
            f"the last {self.since_token_s:.0f} s ago"
        )


class Watch:
    """Looks at the age of every request in flight; every method runs on the dispatcher thread."""

    def __init__(self, ledger: RequestTable, timeout_s: float) -> None:
        """Start without knowing any request.

        Args:
            ledger: Whose requests.
            timeout_s: A request that its worker has had for longer is overdue.
        """
        self._ledger = ledger
        self._timeout_ns = int(timeout_s * 1e9)
        self._seen_tokens = np.zeros(0, np.int64)
        self._changed_ns = np.zeros(0, np.int64)
        self._listed: set[int] = set()

    def look(self, now_ns: int) -> Slots:
        """Find the requests that have become overdue since the last look, (R,)."""
        slots, num_tokens, given_ns = self._ledger.held()
        self._note_tokens(slots, num_tokens, now_ns)
        late = slots[now_ns - given_ns > self._timeout_ns]
        names = self._ledger.names(late).tolist()
        fresh = np.array([name not in self._listed for name in names], np.bool_)
        self._listed.update(names)
        found: Slots = late[fresh]
        return found

    def describe(self, slots: Slots, links: list[WorkerLink], now_ns: int) -> list[Overdue]:
        """List requests for a person."""
        return [
            Overdue(
                sample=int(row["sample"]),
                worker=links[row["worker"]].address,
                age_s=(now_ns - int(row["given_ns"])) / 1e9,
                tokens=int(row["num_tokens"]),
                since_token_s=(now_ns - max(int(changed_ns), int(row["given_ns"]))) / 1e9,
            )
            for row, changed_ns in zip(self._ledger.rows(slots), self._changed_ns[slots], strict=True)
        ]

    def _note_tokens(self, slots: Slots, num_tokens: Slots, now_ns: int) -> None:
        """Note when each slot's count of tokens last changed."""
        missing = int(slots.max(initial=-1)) + 1 - len(self._seen_tokens)
        if missing > 0:
            self._seen_tokens = np.concatenate([self._seen_tokens, np.zeros(missing, np.int64)])
            self._changed_ns = np.concatenate([self._changed_ns, np.zeros(missing, np.int64)])
        moved = slots[self._seen_tokens[slots] != num_tokens]
        self._seen_tokens[slots] = num_tokens
        self._changed_ns[moved] = now_ns
