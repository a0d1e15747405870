"""Requests that no worker has yet."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Waiting = tuple[NDArray[np.uint64], Ints, Ints]
"""Requests: ids, samples, issued_ns, (R,) each."""


class Backlog:
    """Requests that no worker has yet, in the order in which they go out."""

    def __init__(self) -> None:
        self._queries: deque[Waiting] = deque()
        self._num_requests = 0

    def __len__(self) -> int:
        """Count the requests."""
        return self._num_requests

    def add(self, ids: NDArray[np.uint64], samples: Ints, issued_ns: int) -> None:
        """Append a query."""
        self._queries.append((ids, samples, np.full(len(ids), issued_ns)))
        self._num_requests += len(ids)

    def take(self, num: int) -> Waiting:
        """Remove the next `num` requests, or all there are."""
        parts: list[Waiting] = []
        while num and self._queries:
            ids, samples, issued_ns = self._queries.popleft()
            if len(ids) > num:
                self._queries.appendleft((ids[num:], samples[num:], issued_ns[num:]))
            parts.append((ids[:num], samples[:num], issued_ns[:num]))
            num -= len(parts[-1][0])
            self._num_requests -= len(parts[-1][0])
        if len(parts) == 1:
            return parts[0]
        none = np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64)
        joined = [np.concatenate(columns) for columns in zip(none, *parts, strict=True)]
        return joined[0], joined[1], joined[2]
