"""Bounds of the flags that are fields of a frozen dataclass: one line names flag, value and bound."""

from typing import Any

INFINITY = float("inf")
MAX_WORKERS = 1000
"""Of one process's fleet: each has a port, a server and an engine."""


def check_at_least(plan: Any, **bounds: float) -> None:
    """Check fields against their lowest values.

    Raises:
        ValueError: Names flag, value and bound.
    """
    for name, bound in bounds.items():
        if not bound <= getattr(plan, name) < INFINITY:
            raise ValueError(f"{flag(name)}: {getattr(plan, name)} is below {bound} or not finite")


def check_workers(name: str, *nums: int) -> None:
    """Check numbers of workers.

    Raises:
        ValueError: Names flag, value and bound.
    """
    for num in nums:
        if num < 1:
            raise ValueError(f"{flag(name)}: {num} is below 1")
        if num > MAX_WORKERS:
            raise ValueError(f"{flag(name)}: {num} is above {MAX_WORKERS}")


def check_above(plan: Any, *names: str) -> None:
    """Check that fields are above 0 and finite.

    Raises:
        ValueError: Names flag, value and bound.
    """
    for name in names:
        if not 0 < getattr(plan, name) < INFINITY:
            raise ValueError(f"{flag(name)}: {getattr(plan, name)} is not above 0 and finite")


def check_ascending(plan: Any, name: str, highest: int) -> None:
    """Check the two lengths between which answers are drawn.

    Raises:
        ValueError: They do not ascend from 2, as LoadGen counts a shorter answer as an error, to `highest`.
    """
    first, last = getattr(plan, name)
    if not 2 <= first <= last <= highest:
        raise ValueError(
            f"{flag(name)}: {first} {last} does not ascend from 2 to at most --max-new-tokens {highest}"
        )


def flag(name: str) -> str:
    """Write a field's name as a flag."""
    return f"--{name.replace('_', '-')}"
