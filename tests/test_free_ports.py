"""A port that a test has chosen is its own until it listens there."""

from tests import fleet
from tests.forked import completed, main_of

# Chooses a port of a range of three.
CHOOSE = """
import sys
from tests import fleet
first = int(sys.argv[1])
fleet.PORTS = range(first, first + 3)
print(fleet.free_port())
"""


def test_ports_chosen_one_after_the_other_differ_although_none_is_bound_yet() -> None:
    """Of 100 drawn from 8,976, some are the same: two workers at one address, and a run refused."""
    singles = [fleet.free_port() for _ in range(100)]
    assert 100 == len(set(singles))
    first = [fleet.free_port(3) for _ in range(33)]
    assert 99 == len({port + index for port in first for index in range(3)})


def test_no_other_process_of_tests_chooses_a_port_that_was_chosen() -> None:
    """Three ports are claimed here and not bound: a process that may choose only among them finds none."""
    first = fleet.free_port(3)
    done = completed(main_of(CHOOSE), [str(first)])
    assert (1, "") == (done.returncode, done.stdout)
    assert f"AssertionError: no 1 consecutive free ports in {first}..{first + 2}" in done.stderr
