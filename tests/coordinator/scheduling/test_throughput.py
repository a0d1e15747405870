"""A worker's measured speed: what readings show, what is forgotten, and what follows for its window."""

import math

import pytest

from coordinator.scheduling.throughput import (
    TIME_CONSTANT_S,
    Reading,
    Throughput,
    measure,
    prefetch,
    relative_speeds,
)

START = Reading(0, 0, 0, 8, 0, 0.0)
SECOND = Reading(1_000_000_000, 800, 4, 8, 3, 0.01)
HALF_LIFE_NS = round(TIME_CONSTANT_S * math.log(2) * 1e9)


def test_the_first_interval_is_the_first_measure() -> None:
    """800 tokens and 4 ends of 8 requests in a second: 800/s, 100/s of each, 4 ends a second."""
    assert Throughput(800.0, 100.0, 4.0, 3.0, 0.01) == measure(Throughput(), START, SECOND, 8)


def test_what_was_measured_counts_half_after_the_half_life() -> None:
    """From 800 tokens/s to 1,600 the average is 1,200; the burst of 3 and the 10 ms have halved."""
    pace = measure(Throughput(), START, SECOND, 8)
    tokens = 800 + round(1600 * HALF_LIFE_NS / 1e9)
    now = Reading(SECOND.at_ns + HALF_LIFE_NS, tokens, 4, 8, 0, 0.0)
    assert pytest.approx((1200, 150, 2, 1.5, 0.005), rel=1e-3) == tuple(measure(pace, SECOND, now, 8))


def test_the_speed_of_full_slots_is_not_measured_while_some_are_free() -> None:
    """A worker that empties its slots brings less without being slower."""
    pace = measure(Throughput(), START, SECOND, 8)
    now = Reading(2_000_000_000, 1200, 8, 4, 1, 0.0)
    assert pace.full_tokens_per_s == measure(pace, SECOND, now, 8).full_tokens_per_s
    assert 0 == measure(Throughput(), SECOND, now, 8).full_tokens_per_s


def test_an_idle_worker_keeps_its_pace_and_a_stalled_one_does_not() -> None:
    """Nothing outstanding says nothing about speed; requests without tokens do, once there were some."""
    pace = measure(Throughput(), START, SECOND, 8)
    idle = SECOND._replace(outstanding=0)
    assert pace == measure(pace, idle, idle._replace(at_ns=2_000_000_000), 8)
    stalled = SECOND._replace(at_ns=SECOND.at_ns + HALF_LIFE_NS)
    assert pytest.approx((400, 50), rel=1e-3) == tuple(measure(pace, SECOND, stalled, 8))[:2]
    assert Throughput() == measure(Throughput(), START, START._replace(at_ns=1_000_000_000), 8)


@pytest.mark.parametrize(
    "pace, max_num_seqs, expected",
    [
        (Throughput(), 1792, 224),  # not measured: an eighth
        (Throughput(), 1, 1),
        (Throughput(), 7, 1),
        (Throughput(burst=2, finished_per_s=12, refill_s=0.125), 1792, 5),  # 2 + 2 x 12 x 0.125
        (Throughput(burst=2, finished_per_s=12, refill_s=0.001), 1792, 3),  # a part of a request is one
        (Throughput(burst=2, finished_per_s=12, refill_s=0.125), 16, 2),
        (Throughput(burst=0.2, finished_per_s=0.1, refill_s=0.001), 1792, 1),
    ],
)
def test_the_prefetch_is_what_ends_before_a_refill_arrives(
    pace: Throughput, max_num_seqs: int, expected: int
) -> None:
    """What ends in a frame, and twice what ends on the way; from 1 to an eighth of the slots."""
    assert expected == prefetch(pace, max_num_seqs)


def test_speeds_are_relative_to_those_measured() -> None:
    """30 and 10 tokens/s are 1.5 and 0.5; without a measure 1; at least a tenth."""
    rates = [Throughput(request_tokens_per_s=rate) for rate in (30.0, 10.0, 0.0)]
    assert [1.5, 0.5, 1.0] == relative_speeds(rates)
    assert [1.0, 1.0] == relative_speeds([Throughput(), Throughput()])
    assert 0.1 == relative_speeds([Throughput(request_tokens_per_s=1e-9), rates[0]])[0]
