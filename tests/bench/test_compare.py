"""False alarms and power of comparisons, with fewer seeds than `python -m bench.compare`."""

from bench.compare.__main__ import main
from bench.compare.virtual_runs import draw_pair
from sut.results.comparison.comparison import compare


def test_equal_sides_raise_few_alarms_and_a_slowdown_is_found() -> None:
    """Eight pairs: at most one false alarm, and a slowdown of 5 % is found in at least seven."""
    alarms = [
        any(claim.is_more_than_noise for claim in compare(draw_pair(seed, 5, 0.0)).claims)
        for seed in range(8)
    ]
    found = [
        any(claim.is_more_than_noise for claim in compare(draw_pair(seed, 5, 0.05)).claims)
        for seed in range(8)
    ]
    assert (sum(alarms) <= 1, sum(found) >= 7) == (True, True)


def test_bad_flags_are_refused() -> None:
    """A number out of bounds is exit code 2."""
    assert main(["--repeats", "1"]) == 2
