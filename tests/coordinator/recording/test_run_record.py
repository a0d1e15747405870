"""A spread says of a quantity what was seen of it, and no more."""

import numpy as np

from coordinator.recording.run_record import Spread


def test_a_spread_has_both_ends() -> None:
    """Of 30, 10 and 20: lowest, mean and highest; the median is LoadGen's, sorted[int(3 * 0.5)]."""
    spread = Spread.of(np.array([30, 10, 20]))
    assert (3, 10, 20.0, 30) == (spread.count, spread.minimum, spread.mean, spread.maximum)
    assert 20 == spread.percentiles["p50"]


def test_no_values_have_no_figures() -> None:
    """Where nothing was seen every figure is 0, and there are no percentiles."""
    assert Spread(0, 0.0, 0, {}, 0) == Spread.of(np.zeros(0, np.int64))
