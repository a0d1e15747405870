"""Who gets what: shares, dealing and Server's choice, against models of a few lines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.scheduling.routing import (
    NO_LIMIT,
    LoadRank,
    allowances,
    ceiling,
    interleave_shares,
    least_loaded,
    share,
)

MODEL = settings(max_examples=150)
small = st.integers(0, 40)
fleets = st.lists(st.tuples(small, small), min_size=1, max_size=6)


def ints(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Make a column."""
    return np.array(values, np.int64)


def share_by_hand(outstanding: list[int], windows: list[int], num_requests: int) -> list[int]:
    """Give one request after the other to the worker with the fewest that has a free place."""
    held = list(outstanding)
    for _ in range(num_requests):
        free = [w for w in range(len(held)) if held[w] < windows[w]]
        if not free:
            break
        held[min(free, key=held.__getitem__)] += 1
    return [now - before for now, before in zip(held, outstanding, strict=True)]


@pytest.mark.parametrize(
    "outstanding, windows, num_requests, expected",
    [
        ([0, 0], [8, 8], 16, [8, 8]),
        ([0, 0], [8, 8], 100, [8, 8]),
        ([0, 0], [8, 8], 7, [4, 3]),
        ([5, 0], [8, 8], 3, [0, 3]),
        ([5, 0], [8, 8], 7, [1, 6]),
        ([8, 8], [8, 8], 5, [0, 0]),
        ([0, 0, 0], [2, 9, 9], 12, [2, 5, 5]),
        ([9, 3], [8, 8], 4, [0, 4]),  # a window that shrank below what it holds gives no negative share
        ([3], [8], 0, [0]),
        ([6, 0, 4], [8, 8, 8], 5, [0, 5, 0]),
        ([6, 0, 4], [8, 8, 8], 7, [0, 6, 1]),
    ],
)
def test_shares_fill_the_emptiest_first(
    outstanding: list[int], windows: list[int], num_requests: int, expected: list[int]
) -> None:
    """Requests go where the fewest are, so that levels even out, up to each window."""
    assert expected == share(ints(*outstanding), ints(*windows), num_requests).tolist()


@MODEL
@given(fleets, st.integers(0, 250))
def test_shares_are_those_of_one_request_after_the_other(
    fleet: list[tuple[int, int]], num_requests: int
) -> None:
    """Shares never exceed a window, sum to the smaller of requests and free places, and fill levels."""
    outstanding, windows = [held for held, _ in fleet], [size for _, size in fleet]
    shares = share(ints(*outstanding), ints(*windows), num_requests).tolist()
    free = [max(size - held, 0) for held, size in fleet]
    assert all(0 <= given <= places for given, places in zip(shares, free, strict=True))
    assert min(num_requests, sum(free)) == sum(shares)
    assert share_by_hand(outstanding, windows, num_requests) == shares


@pytest.mark.parametrize(
    "shares, expected",
    [
        ([2, 2], [0, 1, 0, 1]),
        ([3], [0, 0, 0]),
        ([2, 1], [0, 1, 0]),
        ([1, 0, 2], [2, 0, 2]),  # at 1/4, 1/2, 3/4
        ([0, 0], []),
        ([1, 1, 1, 1], [0, 1, 2, 3]),
        ([4, 2], [0, 1, 0, 0, 1, 0]),  # at 1/8, 1/4, 3/8, 5/8, 3/4, 7/8
    ],
)
def test_shares_are_interleaved_evenly(shares: list[int], expected: list[int]) -> None:
    """Each worker's requests are spread evenly over the order."""
    assert expected == interleave_shares(ints(*shares)).tolist()


@MODEL
@given(st.lists(small, min_size=1, max_size=6))
def test_interleaving_gives_exactly_the_shares(shares: list[int]) -> None:
    """Interleaving neither loses nor adds a request, and equal shares alternate."""
    workers = interleave_shares(ints(*shares))
    assert shares == np.bincount(workers, minlength=len(shares)).tolist()
    turns = interleave_shares(ints(*[shares[0]] * len(shares)))
    assert list(range(len(shares))) * shares[0] == turns.tolist()


@pytest.mark.parametrize(
    "outstanding, window, allowance, expected",
    [(5, 9, 2, 7), (5, 9, 10, 9), (5, 9, 0, 5), (0, 9, 0, 1), (12, 9, 0, 9), (0, 9, NO_LIMIT, 9)],
)
def test_a_worker_holds_what_its_window_and_its_part_allow(
    outstanding: int, window: int, allowance: int, expected: int
) -> None:
    """Neither window nor allowance is exceeded, but a worker may always hold one request."""
    assert expected == ceiling(outstanding, window, allowance)


@pytest.mark.parametrize(
    "num_requests, slots, rates, expected",
    [
        (40, [10, 10], [100.0, 100.0], [20, 20]),
        # Full slots count 15: 330 are divided as 220 and 110.
        (300, [10, 10], [200.0, 100.0], [205, 95]),
        (30, [10, 10], [200.0, 100.0], [25, 5]),  # 60 as 40 and 20
        (10, [10, 10], [200.0, 100.0], [10, 0]),  # 40 would be 26.7 and 13.3, less than the 15 it has
        (10, [10, 10], [100.0, 200.0], [0, 10]),
        (30, [10, 20], [100.0, 0.0], [10, 20]),  # not measured: as fast by slots as the others
        (7, [10, 10], [0.0, 0.0], [NO_LIMIT, NO_LIMIT]),
        (0, [10, 10], [200.0, 100.0], [0, 0]),
    ],
)
def test_what_waits_is_divided_so_that_all_finish_together(
    num_requests: int, slots: list[int], rates: list[float], expected: list[int]
) -> None:
    """Slots and new requests together, slots 1.5 times, go by speed; who has more than that gets none."""
    assert expected == allowances(num_requests, ints(*slots), np.array(rates)).tolist()


@MODEL
@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(1, 2000), st.floats(1, 1e5)), min_size=1, max_size=6),
)
def test_all_that_waits_is_divided_and_takers_finish_together(
    num_requests: int, fleet: list[tuple[int, float]]
) -> None:
    """Parts are whole and sum to what waits; nobody with two or more ends later than another could begin."""
    slots, rates = ints(*(s for s, _ in fleet)), np.array([r for _, r in fleet])
    parts = allowances(num_requests, slots, rates)
    assert (num_requests, True) == (parts.sum(), bool((parts >= 0).all()))
    request_s = 1 / rates
    ends_s = (parts + 1.5 * slots) * request_s
    for taker in np.flatnonzero(parts >= 2):
        assert (ends_s[taker] - request_s[taker] <= ends_s + request_s + 1e-6 * ends_s[taker]).all()


class OneWorker:
    """A worker of a given load."""

    def __init__(self, *load: int) -> None:
        self.rank = LoadRank(*load)


@pytest.mark.parametrize(
    "loads, expected",
    [
        ([(100, 1, 5), (50, 9, 9)], 1),  # least waiting prefill, whatever else
        ([(50, 4, 1), (50, 3, 9)], 1),  # then fewest outstanding
        ([(50, 3, 9), (50, 3, 8), (50, 3, 10)], 1),  # then the longest since its last prompt
        ([(0, 0, 0), (0, 0, 0)], 0),
        ([(7, 7, 7)], 0),
    ],
)
def test_a_server_request_goes_to_the_least_loaded(loads: list[tuple[int, int, int]], expected: int) -> None:
    """Waiting prefill decides, then outstanding requests, then the oldest last prompt, then the order."""
    workers = [OneWorker(*load) for load in loads]
    assert workers[expected] is least_loaded(workers)
