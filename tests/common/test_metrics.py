"""Readings of metrics: what arrives of them in another process, and their text."""

import json
import os

import pytest

from common.metrics import Metric, MetricKind, Series, from_message, to_message
from common.metrics_endpoint import families
from common.shared_readings import SharedReadings

COUNT = Metric("apples", MetricKind.COUNTER, "Apples.", ("tree",))
LEVEL = Metric("water_metres", MetricKind.GAUGE, "Depth.")
SPREAD = Metric("walk_seconds", MetricKind.HISTOGRAM, "Walks.", bounds=(1.0, 2.5))
METRICS = (COUNT, LEVEL, SPREAD)
READINGS = {
    "apples": [Series(("oak",), 3.0), Series(("elm",), 0.0)],
    "water_metres": [Series((), 1.5)],
    "walk_seconds": [Series((), (4.0, 2.0, 1.0, 9.5))],
}


def test_readings_arrive_as_they_were_sent() -> None:
    """A message holds every series with labels and values."""
    assert READINGS == from_message(to_message(READINGS), METRICS)


@pytest.mark.parametrize(
    "content",
    [
        {"pears": [[[], 1.0]]},
        {"apples": [[["oak"], "3"]]},
        {"apples": [[["oak"], True]]},
        {"apples": [[[], 3.0]]},
        {"apples": [[["oak"], [3.0, 4.0]]]},
        {"apples": {"oak": 3.0}},
        {"apples": [3.0]},
        {"walk_seconds": [[[], [1.0, 2.0, 3.0]]]},
        {"walk_seconds": [[[], 1.0]]},
    ],
)
def test_a_series_that_is_not_declared_so_is_left_out(content: object) -> None:
    """An unknown metric, a wrong number of labels or buckets, and a value that is no number give none."""
    assert {} == from_message(json.dumps(content).encode(), METRICS)


def test_a_value_that_is_not_finite_is_left_out() -> None:
    """NaN, infinity and what no float holds give no series; the others of the metric stay."""
    rows = f'[["oak"], NaN], [["elm"], Infinity], [["fir"], {10**400}], [["ash"], 2]'
    message = f'{{"apples": [{rows}]}}'.encode()
    assert {"apples": [Series(("ash",), 2.0)]} == from_message(message, METRICS)


def test_a_label_is_printable_and_bounded() -> None:
    """Control characters become `?`, and a label ends after 200 characters."""
    message = to_message({"apples": [Series(("a\x1b\n" + "b" * 300,), 1.0)]})
    assert {"apples": [Series(("a??" + "b" * 197,), 1.0)]} == from_message(message, METRICS)


@pytest.mark.parametrize("message", [b"", b"[]", b"{", b"7"])
def test_another_message_is_refused(message: bytes) -> None:
    """What is no object of JSON raises ValueError."""
    with pytest.raises(ValueError):
        from_message(message, METRICS)


def test_a_bucket_counts_all_up_to_its_bound() -> None:
    """4 walks of up to 1 s, 2 of up to 2.5 s and 1 longer one are 4, 6 and 7 in Prometheus' buckets."""
    (family,) = families([SPREAD], READINGS)
    found = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    assert found == {
        ("walk_seconds_bucket", "1.0"): 4.0,
        ("walk_seconds_bucket", "2.5"): 6.0,
        ("walk_seconds_bucket", "+Inf"): 7.0,
        ("walk_seconds_count", None): 7.0,
        ("walk_seconds_sum", None): 9.5,
    }


def test_the_latest_readings_are_read() -> None:
    """A later message replaces an earlier one, also one that is longer; before the first there is nothing."""
    with SharedReadings.create() as shared:
        assert {} == shared.read_metrics(METRICS)
        shared.write(to_message(READINGS))
        assert READINGS == shared.read_metrics(METRICS)
        shared.write(to_message({"water_metres": [Series((), 2.0)]}))
        assert {"water_metres": [Series((), 2.0)]} == shared.read_metrics(METRICS)


def test_a_message_that_is_only_half_there_is_not_read() -> None:
    """If the digest does not match, as while the other process writes, there are no readings."""
    with SharedReadings.create() as shared:
        shared.write(to_message(READINGS))
        assert READINGS == shared.read_metrics(METRICS)
        # The first byte behind the header of 16 bytes.
        os.pwrite(shared.fileno(), b"!", 16)
        assert b"" == shared.read()
        assert {} == shared.read_metrics(METRICS)
