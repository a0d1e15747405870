"""The backlog against a plain list."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.scheduling.backlog import Backlog


@settings(max_examples=150)
@given(st.lists(st.integers(0, 5) | st.integers(-7, -1), max_size=30))
def test_requests_go_out_as_they_came(steps: list[int]) -> None:
    """Queries of n requests, and takes of up to n of them: each once, in order, with its query's time."""
    backlog, waiting, num_issued = Backlog(), [], 0
    for now_ns, step in enumerate(steps):
        if step >= 0:
            names = range(num_issued, num_issued + step)
            backlog.add(list(names), [name + 100 for name in names], now_ns, num_issued)
            waiting += [(name, name + 100, now_ns, name) for name in names]
            num_issued += step
        else:
            taken, waiting = waiting[:-step], waiting[-step:]
            columns = backlog.take(-step)
            assert (np.uint64, np.int64, np.int64, np.int64) == tuple(column.dtype for column in columns)
            assert taken == list(zip(*(column.tolist() for column in columns), strict=True))
        assert len(waiting) == len(backlog)
