"""How sure a median over rounds is, without supposing how the rounds are distributed."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


class Ratio(NamedTuple):
    """A ratio of two sides, one value a round."""

    median: float
    low: float
    """The median lies between this and `high`, with `confidence`."""
    high: float
    confidence: float
    """At least CONFIDENCE from 6 rounds up; below, what lowest and highest round give."""
    rounds: tuple[float, ...]

    @classmethod
    def of(cls, numerators: Sequence[float], denominators: Sequence[float]) -> "Ratio":
        """Divide round by round, (N,) each, N at least 1."""
        rounds = [top / bottom for top, bottom in zip(numerators, denominators, strict=True)]
        left_out = num_left_out(len(rounds))
        ordered = sorted(rounds)
        return cls(
            median=statistics.median(rounds),
            low=ordered[left_out],
            high=ordered[-1 - left_out],
            confidence=coverage(len(rounds), left_out),
            rounds=tuple(rounds),
        )


def num_left_out(num_rounds: int) -> int:
    """Count the rounds that may be left out at each end while what is left still has the confidence."""
    left_out = 0
    while 2 * (left_out + 2) <= num_rounds and coverage(num_rounds, left_out + 1) >= CONFIDENCE:
        left_out += 1
    return left_out


def coverage(num_rounds: int, left_out: int) -> float:
    """Give the probability that the median lies within the ordered rounds less `left_out` at each end.

    Source: the sign test; each round lies above or below the median with probability 1/2 each.
    """
    outside = sum(math.comb(num_rounds, k) for k in range(left_out + 1))
    return max(1.0 - 2.0 * math.ldexp(outside, -num_rounds), 0.0)
