"""False alarms and power of comparisons, with fewer seeds than `python -m bench.compare`."""

from bench.compare.__main__ import main
from bench.compare.virtual_runs import draw_pair
from sut.results.comparison.comparison import compare


def claims_difference(seed: int, slowdown: float) -> bool:
    """Whether the comparison of one pair of sides claims any difference."""
    return any(claim.is_more_than_noise for claim in compare(draw_pair(seed, 5, slowdown)).claims)


def test_equal_sides_raise_few_alarms_and_a_slowdown_is_found() -> None:
    """Of four pairs of equal sides at most one is a false alarm; a slowdown of 5 % is found in two of two."""
    alarms = sum(claims_difference(seed, 0.0) for seed in range(4))
    found = sum(claims_difference(seed, 0.05) for seed in range(2))
    assert (True, 2) == (alarms <= 1, found)


def test_bad_flags_are_refused() -> None:
    """A number out of bounds is exit code 2."""
    assert main(["--repeats", "1"]) == 2
