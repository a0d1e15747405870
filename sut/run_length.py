"""Computes how many queries LoadGen issues in a Server run, and whether they are enough."""

import math
from collections.abc import Mapping
from typing import NamedTuple

from sut.early_stopping import allowed_over_latency, min_passing_queries


class RunLength(NamedTuple):
    """Length of a Server run, as the confs of LoadGen set it."""

    min_duration_s: float
    min_query_count: int
    block: int
    """LoadGen issues whole multiples of this number: the performance sample count, or 1."""
    percentile: float
    """Share of the queries that must meet the limits."""

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> "RunLength":
        """Return the length of the runs that LoadGen makes with these settings, by key of its detail log."""
        is_whole = bool(settings["effective_sample_concatenate_permutation"])
        return cls(
            min_duration_s=setting_number(settings, "effective_min_duration_ms") / 1000,
            min_query_count=int(setting_number(settings, "effective_min_sample_count")),
            block=int(setting_number(settings, "effective_performance_sample_count")) if is_whole else 1,
            percentile=setting_number(settings, "effective_target_latency_percentile"),
        )

    def num_queries(self, target_qps: float) -> int:
        """Return the number of queries that LoadGen issues, within the chance of its schedule."""
        needed = max(self.min_query_count, math.ceil(self.min_duration_s * target_qps), 1)
        return self.block * math.ceil(needed / self.block)

    def allowed(self, target_qps: float) -> int:
        """Return the number of queries that may be over a limit; -1 if a run is too short to be VALID."""
        return allowed_over_latency(self.num_queries(target_qps), self.percentile)

    def too_short(self, target_qps: float) -> str | None:
        """Return why LoadGen cannot call a run at this rate VALID, however fast it is; None if it can."""
        if self.allowed(target_qps) >= 0:
            return None
        least = min_passing_queries(0, self.percentile)
        return (
            f"a run of {self.num_queries(target_qps)} queries at {target_qps:g} queries/s is too short: "
            f"LoadGen calls none VALID below {least} queries (early stopping); "
            "raise min_duration or min_query_count"
        )


def setting_number(settings: Mapping[str, object], key: str) -> float:
    """Return a setting of LoadGen that is a number."""
    value = settings[key]
    assert isinstance(value, int | float)
    return value
