"""Rate of a growing count over the last seconds."""

from collections import deque

RATE_WINDOW_S = 10.0
"""Rates, and the lateness of issue, are those of this time: an engine step may take a second."""


class RecentRate:
    """Rate of a count over RATE_WINDOW_S; since the start while that is shorter."""

    def __init__(self, now_s: float) -> None:
        """Start at 0."""
        self._counts = deque([(now_s, 0)])

    def add(self, now_s: float, count: int) -> None:
        """Add the count at one moment; keeps those of the window, and one that is older."""
        self._counts.append((now_s, count))
        while len(self._counts) > 2 and self._counts[1][0] <= now_s - RATE_WINDOW_S:
            self._counts.popleft()

    @property
    def per_s(self) -> float:
        """The rate up to the latest count."""
        (first_s, first), (last_s, last) = self._counts[0], self._counts[-1]
        return (last - first) / max(last_s - first_s, 1e-9)
