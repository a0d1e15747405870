"""LoadGen's result figures: rates, latencies with their percentiles, and the bounds that LoadGen applies."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sut.results.logs import DetailLog
from sut.settings import Scenario

_PERCENTILES = ("50.00", "90.00", "95.00", "97.00", "99.00", "99.90")


class _Keys(NamedTuple):
    """Keys of the detail log for one quantity; `{}` stands for a percentile."""

    percentile: str
    mean: str
    minimum: str
    maximum: str


_KEYS = {
    "ttft_ns": _Keys(
        "result_first_token_{}_percentile_latency_ns",
        *(f"result_first_token_{name}_latency_ns" for name in ("mean", "min", "max")),
    ),
    "tpot_ns": _Keys(
        "result_time_per_output_token_{}_percentile_ns",
        *(f"result_time_to_output_token_{name}" for name in ("mean", "min", "max")),
    ),
    "latency_ns": _Keys(
        "result_{}_percentile_latency_ns", *(f"result_{name}_latency_ns" for name in ("mean", "min", "max"))
    ),
}
TTFT_P99 = "result_first_token_99.00_percentile_latency_ns"
TPOT_P99 = "result_time_per_output_token_99.00_percentile_ns"
"""Keys of the percentiles that have a limit in Server and Interactive."""
# Figures of the headline, with the key and the name of the setting that bounds each of them.
_OFFLINE_BOUNDS = {"result_samples_per_second": ("effective_target_qps", "target_qps")}
_SERVER_BOUNDS = {
    "result_completed_samples_per_sec": ("effective_target_qps", "target_qps"),
    TTFT_P99: ("requested_server_ttft_latency", "limit"),
    TPOT_P99: ("requested_server_tpot_latency", "limit"),
}
TOKEN_RATES = ("result_tokens_per_second", "result_completed_tokens_per_second")
"""Keys of the tokens/s of Offline and Server."""
_OFFLINE_HEADLINE = ("result_validity", "result_tokens_per_second", "result_samples_per_second")
_SERVER_HEADLINE = ("result_validity", "result_completed_tokens_per_second", *_SERVER_BOUNDS)


@dataclass(frozen=True, slots=True)
class LoadGenSpread:
    """Distribution of one quantity as LoadGen reports it."""

    mean: float
    minimum: float
    percentiles: dict[str, float]
    """By name: p50 to p99.9."""
    maximum: float


@dataclass(frozen=True, slots=True)
class Bound:
    """The setting that a figure is compared with."""

    name: str
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadGenFigures:
    """LoadGen's results; without a completed test every mapping is empty."""

    headline: dict[str, object] = field(default_factory=dict)
    """Result figures, by key of the detail log."""
    bounds: dict[str, Bound] = field(default_factory=dict)
    """Bound of a figure, by the figure's key."""
    latencies: dict[str, LoadGenSpread] = field(default_factory=dict)
    """ttft_ns, tpot_ns, latency_ns as far as LoadGen reports them; from the time a query was scheduled."""

    @classmethod
    def of(cls, scenario: Scenario, detail: DetailLog) -> "LoadGenFigures":
        """Select the figures of a completed test; keys that LoadGen has not logged are left out."""
        values = detail.values
        offline = scenario is Scenario.OFFLINE
        keys = _OFFLINE_HEADLINE if offline else _SERVER_HEADLINE
        found = {name: spread for name in _KEYS if (spread := _spread(_KEYS[name], values))}
        return cls(
            headline={key: values[key] for key in keys if key in values},
            bounds=_bounds(_OFFLINE_BOUNDS if offline else _SERVER_BOUNDS, values),
            latencies=found,
        )


def _bounds(settings: Mapping[str, tuple[str, str]], values: Mapping[str, object]) -> dict[str, Bound]:
    return {
        key: Bound(name, bound)
        for key, (setting, name) in settings.items()
        if key in values and (bound := _number(values, setting)) is not None
    }


def _spread(keys: _Keys, values: Mapping[str, object]) -> LoadGenSpread | None:
    """Read one quantity; None if LoadGen does not report it completely."""
    ends = [_number(values, key) for key in keys[1:]]
    marks = {mark: _number(values, keys.percentile.format(mark)) for mark in _PERCENTILES}
    known = {f"p{float(mark):g}": value for mark, value in marks.items() if value is not None}
    mean, minimum, maximum = ends
    if mean is None or minimum is None or maximum is None or len(known) < len(marks):
        return None
    return LoadGenSpread(mean, minimum, known, maximum)


def _number(values: Mapping[str, object], key: str) -> float | None:
    value = values.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
