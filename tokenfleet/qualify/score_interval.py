"""The official score projected from a few graded rows, with its confidence interval.

The official score is a weighted mean of the fractions of correct answers of the data sets; the weight of a
data set is its number of questions, rows divided by repeats (eval_mlperf_accuracy.py). Graded rows drawn in
each data set estimate its fraction. The interval of the weighted mean is the stratified Wilson interval:
Yan and Su, Stratified Wilson and Newcombe Confidence Intervals for Multiple Binomial Proportions, Statistics
in Biopharmaceutical Research 2 (2010), 329-335. Each data set's interval is that of Wilson, Journal of the
American Statistical Association 22 (1927), 209-212.
"""

import math
from collections.abc import Mapping, Sequence
from operator import mul
from statistics import NormalDist
from typing import NamedTuple

CONFIDENCE = 0.95


class Stratum(NamedTuple):
    """Graded rows of one data set."""

    weight: float
    """Share of the data set in the official score; the weights of all data sets add up to 1."""
    num_correct: int
    num_graded: int
    """At least 1."""


class Interval(NamedTuple):
    """An estimate with its confidence interval, as fractions."""

    estimate: float
    low: float
    high: float


def wilson_interval(num_correct: int, num_graded: int, quantile: float | None = None) -> Interval:
    """Return Wilson's interval of a fraction.

    Args:
        num_correct: Successes.
        num_graded: Trials, at least 1.
        quantile: Of the standard normal distribution; None: that of CONFIDENCE.
    """
    z = _two_sided_quantile() if quantile is None else quantile
    fraction = num_correct / num_graded
    scale = 1 + z * z / num_graded
    center = (fraction + z * z / (2 * num_graded)) / scale
    spread = z / scale * math.sqrt(fraction * (1 - fraction) / num_graded + z * z / (4 * num_graded**2))
    return Interval(fraction, max(center - spread, 0.0), min(center + spread, 1.0))


def project_score(strata: Sequence[Stratum]) -> Interval:
    """Return the weighted mean of the fractions and its stratified Wilson interval.

    With standard errors s_i = w_i * sqrt(p_i * (1 - p_i) / n_i), the limits are the weighted sums of Wilson's
    limits at the quantile z * sqrt(sum(s_i^2)) / sum(s_i). A fraction of 0 or 1 has an estimated error of 0;
    p_i in s_i is therefore the center of Wilson's interval.
    """
    errors = [_standard_error(stratum) for stratum in strata]
    quantile = _two_sided_quantile() * math.hypot(*errors) / sum(errors)
    own = [wilson_interval(stratum.num_correct, stratum.num_graded, quantile) for stratum in strata]
    weights = [stratum.weight for stratum in strata]
    return Interval(*(sum(map(mul, weights, values)) for values in zip(*own, strict=True)))


def divide_sample(num_rows: int, weights: Mapping[str, float], min_rows: int) -> dict[str, int]:
    """Divide rows to grade over data sets: in proportion to the weights, each at least `min_rows`.

    Args:
        num_rows: Rows to grade in all, at least `min_rows` for each data set.
        weights: Share of each data set in the score.
        min_rows: Smallest number of a data set; the largest data set makes room for it.
    """
    total = sum(weights.values())
    rows = {name: max(min_rows, int(num_rows * weight / total)) for name, weight in weights.items()}
    largest = max(weights, key=lambda name: weights[name])
    return rows | {largest: rows[largest] + num_rows - sum(rows.values())}


def worse_by_chance(num_lost: int, num_gained: int) -> float:
    """Return the probability that at least `num_lost` of the changed rows are losses if both are as likely.

    The one-sided exact test of McNemar (Psychometrika 12 (1947), 153-157) for two gradings of the same rows.
    """
    changed = num_lost + num_gained
    ways = sum(math.comb(changed, lost) for lost in range(num_lost, changed + 1))
    return ways / 2.0**changed


def _two_sided_quantile() -> float:
    return NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


def _standard_error(stratum: Stratum) -> float:
    own = wilson_interval(stratum.num_correct, stratum.num_graded)
    center = (own.low + own.high) / 2
    return stratum.weight * math.sqrt(center * (1 - center) / stratum.num_graded)
