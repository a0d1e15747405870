"""Metrics declared once: name, type, labels and help; and readings of them.

The process that measures and the process that answers a scrape may be two: readings are sent as JSON.
"""

import json
import resource
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from common.json_document import as_list, is_number, parse_object
from common.text import printable

MAX_LABEL_LEN = 200
MAX_SERIES = 100_000
"""Most series of one metric: a scrape is bounded whatever a process reports."""


class MetricKind(StrEnum):
    """Type of a metric, as in Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Metric(NamedTuple):
    """Declaration of a metric; the name of a counter has the suffix _total in the text."""

    name: str
    kind: MetricKind
    help: str
    """One sentence, with the unit."""
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, without infinity."""

    @property
    def exposed_name(self) -> str:
        """Name in queries; a histogram adds _bucket, _sum and _count."""
        return f"{self.name}_total" if self.kind is MetricKind.COUNTER else self.name


class Series(NamedTuple):
    """One series of a metric."""

    labels: tuple[str, ...]
    value: float | tuple[float, ...]
    """A histogram: the number of observations in each bucket, infinity last, and their sum."""


Readings = dict[str, list[Series]]
"""Readings by name of their metric."""


def resident_bytes() -> int:
    """Return the memory of this process that is resident now.

    Source: proc(5), statm, which counts in pages.
    """
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def to_message(readings: Readings) -> bytes:
    """Encode readings for another process, as one line."""
    return json.dumps(readings, separators=(",", ":")).encode()


def from_message(message: bytes, metrics: Sequence[Metric]) -> Readings:
    """Decode readings and drop what these metrics do not declare.

    Raises:
        ValueError: It is not a message of readings.
    """
    content = parse_object(message)
    found = {metric.name: _clean(metric, content.get(metric.name)) for metric in metrics}
    return {name: readings for name, readings in found.items() if readings}


def _clean(metric: Metric, content: Any) -> list[Series]:
    rows = as_list(content)[:MAX_SERIES]
    return [Series(*row) for row in (_read_row(metric, row) for row in rows) if row is not None]


def _read_row(metric: Metric, row: Any) -> tuple[tuple[str, ...], float | tuple[float, ...]] | None:
    """Return labels and value of one series; None if they do not fit the declaration."""
    if not (isinstance(row, list) and len(row) == 2 and isinstance(row[0], list)):
        return None
    labels = tuple(printable(str(label), MAX_LABEL_LEN) for label in row[0])
    numbers = row[1] if isinstance(row[1], list) else [row[1]]
    if len(labels) != len(metric.labels) or not all(map(is_number, numbers)):
        return None
    if metric.kind is not MetricKind.HISTOGRAM:
        return (labels, float(numbers[0])) if len(numbers) == 1 else None
    return (labels, tuple(map(float, numbers))) if len(numbers) == len(metric.bounds) + 2 else None
