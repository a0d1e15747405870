"""Queue of issued requests that have not been sent to a worker yet."""

from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class IssuedRequests(NamedTuple):
    """R requests as LoadGen issued them."""

    loadgen_ids: NDArray[np.uint64]
    """(R,) LoadGen's response ids, which are pointers."""
    samples: NDArray[np.int64]
    """(R,) indices into the data set."""
    issued_ns: NDArray[np.int64]
    """(R,) coordinator's monotonic clock."""
    queries: NDArray[np.int64]
    """(R,) numbers in the order of issue, from 0."""

    def rows(self, which: slice | NDArray[np.bool_]) -> "IssuedRequests":
        """Select some of the requests."""
        return IssuedRequests._make(column[which] for column in self)


class Backlog:
    """FIFO queue of requests; every method runs on the event loop's thread."""

    def __init__(self) -> None:
        self.waiting: deque[IssuedRequests] = deque()
        """Issued queries; other classes only check whether there are any, at a lower cost than by `len`."""
        self._num_requests = 0

    def __len__(self) -> int:
        """Return the number of requests."""
        return self._num_requests

    def add(self, loadgen_ids: list[int], samples: list[int], issued_ns: int, first: int) -> None:
        """Append one query; first: number of its first request in the order of issue."""
        num = len(loadgen_ids)
        ids, indices = np.array(loadgen_ids, np.uint64), np.array(samples, np.int64)
        numbers = np.arange(first, first + num)
        self.waiting.append(IssuedRequests(ids, indices, np.full(num, issued_ns), numbers))
        self._num_requests += num

    def take(self, num: int) -> IssuedRequests:
        """Remove the next `num` requests, or all if there are fewer."""
        none = np.zeros(0, np.int64)
        parts = [IssuedRequests(np.zeros(0, np.uint64), none, none, none)]
        while num and self.waiting:
            query = self.waiting.popleft()
            if len(query.samples) > num:
                self.waiting.appendleft(query.rows(slice(num, None)))
                query = query.rows(slice(num))
            parts.append(query)
            num -= len(query.samples)
            self._num_requests -= len(query.samples)
        return IssuedRequests._make(map(np.concatenate, zip(*parts, strict=True)))
