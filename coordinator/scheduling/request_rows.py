"""What is known of a request: while it is in flight, and after its end."""

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]
"""Requests in flight, by where they stand in the ledger, (R,)."""

ROW = np.dtype(
    [
        ("sample", "i8"),
        ("worker", "i4"),
        ("reason", "u1"),
        ("losses", "u2"),
        ("prompt_len", "i8"),
        ("prefill_len", "i8"),
        ("num_tokens", "i8"),
        ("issued_ns", "i8"),
        ("sent_ns", "i8"),
        ("given_ns", "i8"),
        ("first_ns", "i8"),
        ("done_ns", "i8"),
    ]
)
"""One request; times are the coordinator's monotonic clock, first_ns is 0 before a first token.

losses: times it was taken from a worker. prefill_len: tokens its worker must prefill before it answers.
sent_ns: when it first went out; given_ns: when its present worker got it.
"""

DONE = np.dtype(
    [
        ("sample", "i4"),
        ("worker", "i4"),
        ("reason", "u1"),
        ("losses", "u2"),
        ("prompt_len", "i4"),
        ("num_tokens", "i4"),
        ("issued_ns", "i8"),
        ("sent_ns", "i8"),
        ("first_ns", "i8"),
        ("done_ns", "i8"),
    ]
)
"""What is kept of a finished request until the end of the run; fields as in ROW."""


class Finished:
    """Finished requests in order of completion; runs on the dispatcher thread."""

    def __init__(self, num_rows: int) -> None:
        """Reserve rows; they double when they run out."""
        self._rows = np.zeros(num_rows, DONE)
        self.num_rows = 0

    @property
    def rows(self) -> NDArray[np.void]:
        """Dtype DONE, shape (num_rows,)."""
        return self._rows[: self.num_rows]

    def add(self, rows: NDArray[np.void]) -> None:
        """Append requests, (R,), dtype ROW."""
        end = self.num_rows + len(rows)
        while end > len(self._rows):
            # Zeros that nobody has written to take no memory.
            grown = np.zeros(2 * len(self._rows), DONE)
            grown[: self.num_rows] = self.rows
            self._rows = grown
        for name in DONE.names or ():
            self._rows[name][self.num_rows : end] = rows[name]
        self.num_rows = end
