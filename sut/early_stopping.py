"""LoadGen's early stopping: how many queries of a Server run may be over a latency limit.

Source: loadgen/early_stopping.cc and PerformanceSummary::EarlyStopping in loadgen/results.cc. A run passes if
its over-latency queries would be improbable, at most 1 %, for a system whose true share is the percentile's.
A short run therefore needs a better percentile than a long one: of 459 queries none may be over, of 6,396 at
most 45 (0.70 %), of 63,960 at most 581 (0.91 %), where the 99th percentile alone would allow 1 %.
"""

import math

_CONFIDENCE = 0.99
# Where LoadGen stops adding terms of the hypergeometric series.
_TOLERANCE = 1.0 / (1 << 33)


def allowed_over_latency(num_queries: int, percentile: float) -> int:
    """Return the largest number of over-latency queries with which LoadGen calls a run VALID.

    Args:
        num_queries: Queries of the run.
        percentile: LoadGen's target_latency_percentile as a fraction, e.g. 0.99.

    Returns:
        The number for TTFT, and again for TPOT; -1 if the run has too few queries to pass at all.
    """
    # The percentile itself is sorted[int(n * p)], which must be within the limit.
    low, high = -1, num_queries - int(num_queries * percentile) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if num_queries >= min_passing_queries(middle, percentile) + middle:
            low = middle
        else:
            high = middle - 1
    return low


def min_passing_queries(num_over: int, percentile: float) -> int:
    """Return LoadGen's smallest number of queries within the limit beside `num_over` that are over it.

    Source: MinPassingQueriesFinder, with its bounds of the binary search.
    """
    without_over = math.ceil(math.log(1 - _CONFIDENCE) / math.log(percentile))
    low = int(num_over * (percentile / (1 - percentile)) + without_over)
    count = num_over * without_over + without_over + 1 - low
    while count > 0:
        step = count // 2
        if _probability(low + step, num_over, percentile) < 1 - _CONFIDENCE:
            count = step
        else:
            low += step + 1
            count -= step + 1
    return low


def _probability(num_passing: int, num_over: int, percentile: float) -> float:
    """Return the probability of at most `num_over` over-latency queries among all of them.

    Source: beta_regularized(percentile, num_passing, 1 + num_over).
    """
    passing, over = num_passing, 1 + num_over
    log_beta = math.lgamma(passing) + math.lgamma(over) - math.lgamma(passing + over)
    log_power = passing * math.log(percentile) + num_over * math.log(1 - percentile)
    series = _hypergeometric(-num_over, 1 + passing, percentile / (percentile - 1))
    return math.exp(log_power - log_beta) / passing * series


def _hypergeometric(second: int, third: int, argument: float) -> float:
    """Return the Gaussian hypergeometric function 2F1(1, second; third; argument)."""
    term = total = 1.0
    index = 0
    while abs(term) > _TOLERANCE:
        term *= (second + index) * argument / (third + index)
        total += term
        index += 1
    return total
