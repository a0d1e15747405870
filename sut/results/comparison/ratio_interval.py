"""The ratio of a figure between two sides with its confidence interval, from repeated runs.

Method: least squares on the logarithm of the figure. The terms are a constant, the side, and, if the runs of
the two sides alternate, the start time: a drift of the machine during the session is then not taken for a
difference of the sides. The interval is Student's, with the residual degrees of freedom. Both sides are
assumed to scatter alike.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_RUNS_FOR_DRIFT = 3
"""Runs per side from which a drift is estimated."""
MAX_VARIANCE_INFLATION = 2.0
"""The sides alternate if estimating a drift multiplies the variance of the ratio by at most this.

Five and five runs in turns: 1.03. Five of one side, then five of the other: 4.1.
"""

MIN_HALF_WIDTH = 1e-5
"""LoadGen prints six digits: a figure is known to 5e-6 of its value, a ratio of two to 1e-5."""


class RepeatedFigure(NamedTuple):
    """One figure of the runs of one side."""

    values: Sequence[float]
    """All above 0."""
    starts_s: Sequence[float] | None
    """Start time of each run; None if one is unknown."""


class RatioInterval(NamedTuple):
    """A ratio B / A with its confidence interval."""

    ratio: float
    low: float
    high: float
    confidence: float
    """Probability with which such intervals contain the true ratio."""
    removes_drift: bool
    """Whether a drift over the start times was estimated."""

    @property
    def excludes_one(self) -> bool:
        """Whether the ratio differs from 1 by more than noise."""
        return not self.low <= 1.0 <= self.high


def ratio_interval(a: RepeatedFigure, b: RepeatedFigure, error_rate: float) -> RatioInterval | None:
    """Estimate B / A.

    Args:
        a: The baseline.
        b: The other side.
        error_rate: Probability with which the interval may miss the true ratio.

    Returns:
        None if a side has fewer than two runs: the noise is then unknown.
    """
    if min(len(a.values), len(b.values)) < 2:
        return None
    side = np.repeat([0.0, 1.0], [len(a.values), len(b.values)])
    columns = [np.ones_like(side), side]
    starts = _alternating_starts(a, b, side)
    if starts is not None:
        columns.append(starts)
    logs = np.log(np.array([*a.values, *b.values]))
    design = np.stack(columns, axis=1)
    inverse = np.linalg.inv(design.T @ design)
    estimate = inverse @ design.T @ logs
    degrees = len(logs) - design.shape[1]
    residuals = logs - design @ estimate
    error = math.sqrt(float(residuals @ residuals) / degrees * float(inverse[1, 1]))
    half = max(student_quantile(error_rate, degrees) * error, MIN_HALF_WIDTH)
    difference = float(estimate[1])
    return RatioInterval(
        ratio=math.exp(difference),
        low=math.exp(difference - half),
        high=math.exp(difference + half),
        confidence=1 - error_rate,
        removes_drift=starts is not None,
    )


def _alternating_starts(
    a: RepeatedFigure, b: RepeatedFigure, side: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Return the start times, centred and scaled, (N,); None if unknown, or if the sides do not alternate."""
    if a.starts_s is None or b.starts_s is None:
        return None
    starts = np.array([*a.starts_s, *b.starts_s], np.float64)
    centred = starts - starts.mean()
    if min(len(a.values), len(b.values)) < MIN_RUNS_FOR_DRIFT or not centred.any():
        return None
    correlation = float(np.corrcoef(side, centred)[0, 1])
    if 1 - correlation**2 < 1 / MAX_VARIANCE_INFLATION:
        return None
    scaled: NDArray[np.float64] = centred / np.abs(centred).max()
    return scaled


def student_quantile(error_rate: float, degrees: int) -> float:
    """Return the t with P(|T| > t) = `error_rate` for Student's distribution with whole degrees of freedom.

    Solved by bisection of the angle theta = atan(t / sqrt(degrees)).
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _central_probability(middle, degrees) < 1 - error_rate:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(degrees)


def _central_probability(theta: float, degrees: int) -> float:
    """Return P(|T| < t), t = tan(theta) * sqrt(degrees).

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    sine, cosine = math.sin(theta), math.cos(theta)
    is_odd = degrees % 2 == 1
    term = cosine if is_odd else 1.0
    terms = [term] if degrees > 1 else []
    for k in range(2 if is_odd else 1, degrees - 2, 2):
        term *= cosine**2 * k / (k + 1)
        terms.append(term)
    series = sine * sum(terms)
    return 2 / math.pi * (theta + series) if is_odd else series
