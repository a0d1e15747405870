"""A port that a test has chosen is its own until it listens there."""

from tests.fleet import free_port


def test_ports_chosen_one_after_the_other_differ_although_none_is_bound_yet() -> None:
    """Of 500 drawn from 5,700, some are the same: two workers at one address, and a run refused."""
    singles = [free_port() for _ in range(500)]
    assert 500 == len(set(singles))
    first = [free_port(3) for _ in range(100)]
    assert 300 == len({port + index for port in first for index in range(3)})
