"""Times of a worker's clock on the coordinator's: within the bound that the pings give."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sut.results.timing.clock_offsets import MAX_DRIFT, UNKNOWN_NS, ClockOffsets

MS, S = 1_000_000, 1_000_000_000
MAX_NS = 2**63 - 1


def test_a_ping_bounds_the_difference_by_half_its_round_trip() -> None:
    """Sent at 1000, answered at 5000, received at 1010: 1005 of ours is 5000, +-5 and 1 for whole ns."""
    ours, error = ClockOffsets(np.array([[1000, 5000, 1010]])).to_ours(np.array([5000]))
    assert (ours.tolist(), error.tolist()) == ([1005], [6])


def test_the_best_bound_of_several_pings_holds() -> None:
    """A ping of 10 ms beside one of 0.2 ms: the short one's bound, and what 1 s of the known drift adds."""
    pings = np.array([[0, 7 * S + 5 * MS, 10 * MS], [S, 8 * S + MS // 10, S + MS // 5]])
    ours, (error,) = ClockOffsets(pings).to_ours(pings[1:, 1])
    assert (ours.tolist(), error) == ([S + MS // 10], MS // 10 + 1)
    # Away from any ping, the bound grows by the drift: two pings a second apart leave MAX_DRIFT open.
    _, (later,) = ClockOffsets(pings).to_ours(pings[1:, 1] + 2 * S)
    assert later == pytest.approx(MS // 10 + MAX_DRIFT * 2 * S, abs=2)


def test_what_is_unknown_stays_unknown() -> None:
    """A time of 0, and every time of a stream without pings."""
    ours, errors = ClockOffsets(np.array([[1000, 5000, 1010]])).to_ours(np.array([0]))
    assert (ours.tolist(), errors.tolist()) == ([UNKNOWN_NS], [UNKNOWN_NS])
    ours, errors = ClockOffsets(np.zeros((0, 3), np.int64)).to_ours(np.array([7, 0]))
    assert (ours.tolist(), errors.tolist()) == ([UNKNOWN_NS] * 2, [UNKNOWN_NS] * 2)


@pytest.mark.parametrize("pings", [[[5, 0, 6]], [[5, MAX_NS, 6]], [[5, 0, 6], [7, MAX_NS, 8]]])
def test_any_time_of_63_bits_is_mapped(pings: list[list[int]]) -> None:
    """A worker that lies about its clock gives some time and some bound of at least 0, and no error."""
    ours, errors = ClockOffsets(np.array(pings)).to_ours(np.array([1, MAX_NS // 2, MAX_NS]))
    assert len(ours) == 3
    assert (errors >= 0).all()


def pings_of(ahead_ns: int, drift: float, trips: list[tuple[int, int]]) -> NDArray[np.int64]:
    """Ping once a second a worker whose clock is ahead and runs faster; trips: ns there and back."""
    rows = []
    for number, (there_ns, back_ns) in enumerate(trips):
        at_ns = 100 * S + number * S + there_ns
        rows.append((at_ns - there_ns, round(at_ns * (1 + drift)) + ahead_ns, at_ns + back_ns))
    return np.array(rows, np.int64)


@settings(max_examples=100)
@given(
    st.integers(-(90 * S), 10**6 * S),
    st.floats(-100e-6, 100e-6),
    st.lists(st.tuples(st.integers(1000, 20 * MS), st.integers(1000, 20 * MS)), min_size=1, max_size=40),
)
def test_the_true_time_is_within_the_bound(ahead_ns: int, drift: float, trips: list[tuple[int, int]]) -> None:
    """Whatever the ways there and back take, and however fast the clock runs: at pings and between them."""
    true_ns = 100 * S + np.arange(0, len(trips) * S, S // 4)
    worker_ns = np.rint(true_ns * (1 + drift)).astype(np.int64) + ahead_ns
    ours, errors = ClockOffsets(pings_of(ahead_ns, drift, trips)).to_ours(worker_ns)
    assert (np.abs(ours - true_ns) <= errors + 2).all()


def test_many_pings_find_the_drift() -> None:
    """600 pings of 1 ms to a clock that is 50 ppm fast: a rate known to 2 ppm, an error of half a ms."""
    trips = [(MS // 2, MS // 2)] * 600
    offsets = ClockOffsets(pings_of(S, 50e-6, trips))
    assert offsets.drift < 2e-6
    true_ns = np.array([150 * S, 400 * S + S // 2])
    ours, errors = offsets.to_ours(np.rint(true_ns * (1 + 50e-6)).astype(np.int64) + S)
    assert (np.abs(ours - true_ns) < 3000).all()
    assert (errors < MS // 2 + 3000).all()
