"""Requests that no worker has yet."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Backlog:
    """Requests that no worker has yet, in the order in which they go out."""

    def __init__(self) -> None:
        self._ids = np.zeros(0, np.uint64)
        self._samples = np.zeros(0, np.int64)
        self._issued_ns = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """Count the requests."""
        return len(self._ids)

    def add(self, ids: NDArray[np.uint64], samples: Ints, issued_ns: int) -> None:
        """Append a query."""
        self._ids = np.concatenate([self._ids, ids])
        self._samples = np.concatenate([self._samples, samples])
        self._issued_ns = np.concatenate([self._issued_ns, np.full(len(ids), issued_ns)])

    def take(self, num: int) -> tuple[NDArray[np.uint64], Ints, Ints]:
        """Remove the next `num` requests: ids, samples, issued_ns, (num,) each."""
        head = self._ids[:num], self._samples[:num], self._issued_ns[:num]
        self._ids, self._samples, self._issued_ns = (
            self._ids[num:],
            self._samples[num:],
            self._issued_ns[num:],
        )
        return head
