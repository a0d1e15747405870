"""TTFT, TPOT and latency taken apart: the parts add up, and each part is where the time was spent."""

import numpy as np
import pytest

from sut.results.timing.clock_offsets import UNKNOWN_NS
from sut.results.timing.decomposition import Decomposition, RunDecomposition
from sut.results.timing.request_records import RequestRecords, build_records
from tests.sut.timed_requests import ORIGIN, Begin, End, done, stream

REQUEST = {"sample": 7, "issued_ns": 10, "sent_ns": 20, "first_ns": 100, "done_ns": 200}
BEGIN = (0, 100, 110, 90, 30, 45, 70)
END = (0, 213, 195, 180)


def one(num_tokens: int = 5) -> RequestRecords:
    """Make a single request whose parts are all different."""
    return build_records(done(REQUEST | {"num_tokens": num_tokens}), [stream([BEGIN], [END])], ORIGIN)


def take(records: RequestRecords) -> dict[str, Decomposition]:
    """Take requests apart."""
    return RunDecomposition.of(records, None).quantities


def test_ttft_is_the_sum_of_its_parts() -> None:
    """From issue at 10 to report at 110; a schedule puts LoadGen's lateness in front."""
    records = one()
    expected = {
        "coordinator queue": 10,
        "network out": 10,
        "engine queue": 15,
        "prefill": 25,
        "frame hold": 20,
        "network back": 10,
        "report": 10,
    }
    found = take(records)["ttft_ns"].percentiles["p99"]
    assert (found.parts_ns, found.value_ns, found.mean_ns, found.num_requests) == (expected, 100, 100, 1)
    records.columns["scheduled_ns"][:] = 3
    found = take(records)["ttft_ns"].percentiles["p50"]
    assert found.parts_ns == {"lateness": 7} | expected
    assert found.value_ns == 107


def test_lateness_is_that_of_every_query_by_the_schedule() -> None:
    """Of 1000 queries issued at 10, query q was due q before: late by 0 to 999, LoadGen's p99 is 990."""
    records = many(1000)
    assert RunDecomposition.of(records, None).lateness_ns is None
    records.columns["scheduled_ns"][:] = 10 - np.arange(1000)
    found = RunDecomposition.of(records, None).lateness_ns
    assert found is not None
    marks = {"p50": 500, "p90": 900, "p95": 950, "p99": 990, "p99.9": 999}
    assert (0, 499.5, marks, 999) == (found.minimum, found.mean, found.percentiles, found.maximum)


def test_latency_is_the_sum_of_its_parts() -> None:
    """The same up to the first token; then decode to 180, hold to 195, back to 200, report to 213."""
    found = take(one())["latency_ns"].percentiles["p50"]
    assert found.parts_ns == {
        "coordinator queue": 10,
        "network out": 10,
        "engine queue": 15,
        "prefill": 25,
        "decode": 110,
        "frame hold": 15,
        "network back": 5,
        "report": 13,
    }
    assert found.value_ns == sum(found.parts_ns.values()) == 203


def test_tpot_is_the_engines_time_and_what_the_other_steps_add() -> None:
    """(213 - 110) / 4 = 25.75: 110 / 4 in the engine, and less or more in the steps behind it."""
    found = take(one())["tpot_ns"].percentiles["p50"]
    # Held 20 for the first token, 15 for the last; on the way back 10 and 5; reported after 10 and 13.
    assert found.parts_ns == {
        "engine": 110 / 4,
        "frame hold": -5 / 4,
        "network back": -5 / 4,
        "report": 3 / 4,
    }
    assert sum(found.parts_ns.values()) == 25.75
    assert "tpot_ns" not in take(one(num_tokens=1))
    assert 103 == take(one(num_tokens=2))["tpot_ns"].percentiles["p50"].value_ns


def test_tpot_is_that_of_requests_with_two_tokens_and_two_reports() -> None:
    """An answer of one token has no TPOT, nor has one whose last report is not known; neither is unknown."""
    rows = [REQUEST | {"query": query, "num_tokens": 1 if query == 1 else 5} for query in range(3)]
    begins, ends = [(query, *BEGIN[1:]) for query in range(3)], [(query, *END[1:]) for query in range(3)]
    records = build_records(done(*rows), [stream(begins, ends)], ORIGIN)
    records.columns["done_reported_ns"][2] = UNKNOWN_NS
    found = take(records)["tpot_ns"]
    assert (1, 0) == (found.count, found.num_unknown)
    records.columns["done_reported_ns"][:] = UNKNOWN_NS
    assert ["ttft_ns"] == list(take(records))


def test_a_step_that_no_request_has_at_both_tokens_joins_the_next_one_of_tpot() -> None:
    """The engine tells no first tokens: the frames' 195 - 90 are the first part, and the sum stays."""
    records = one()
    records.columns["first_token_ns"][:] = UNKNOWN_NS
    found = take(records)["tpot_ns"].percentiles["p50"]
    assert {"frame hold": 105 / 4, "network back": -5 / 4, "report": 3 / 4} == found.parts_ns
    records.columns["last_frame_ns"][:] = UNKNOWN_NS
    found = take(records)["tpot_ns"].percentiles["p50"]
    assert {"network back": 100 / 4, "report": 3 / 4} == found.parts_ns


def test_a_time_that_no_request_has_joins_the_next_part() -> None:
    """An engine that does not tell its admissions: queue and prefill are one part; the sum stays."""
    records = one()
    records.columns["admitted_ns"][:] = UNKNOWN_NS
    parts = take(records)["ttft_ns"].percentiles["p50"].parts_ns
    assert parts["engine queue + prefill"] == 40
    assert sum(parts.values()) == 100
    for name in ("received_ns", "first_token_ns", "first_frame_ns"):
        records.columns[name][:] = UNKNOWN_NS
    parts = take(records)["ttft_ns"].percentiles["p50"].parts_ns
    whole = "network out + engine queue + prefill + frame hold + network back"
    assert parts == {"coordinator queue": 10, whole: 80, "report": 10}


def test_a_request_without_a_time_that_others_have_is_left_out_and_counted() -> None:
    """Two requests, one whose admission is unknown: the parts are those of the other one."""
    rows = [REQUEST, REQUEST | {"query": 1}]
    begins = [BEGIN, (1, *BEGIN[1:])]
    records = build_records(done(*rows), [stream(begins, [END, (1, *END[1:])])], ORIGIN)
    records.columns["admitted_ns"][1] = UNKNOWN_NS
    found = take(records)["ttft_ns"]
    assert (found.count, found.num_unknown) == (1, 1)
    assert found.mean_parts_ns == found.percentiles["p50"].parts_ns
    records.columns["last_frame_ns"][0] = UNKNOWN_NS
    found = take(records)["tpot_ns"]
    assert (found.count, found.num_unknown) == (1, 1)


def test_requests_that_all_lack_a_time_have_no_parts() -> None:
    """Each of two lacks a time that the other has: both are unknown, and nothing is averaged."""
    rows = [REQUEST, REQUEST | {"query": 1}]
    begins = [BEGIN, (1, *BEGIN[1:])]
    records = build_records(done(*rows), [stream(begins, [])], ORIGIN)
    records.columns["admitted_ns"][0] = UNKNOWN_NS
    records.columns["received_ns"][1] = UNKNOWN_NS
    assert Decomposition(0, 2, {}, {}) == take(records)["ttft_ns"]


def test_the_error_of_the_clocks_is_averaged() -> None:
    """Over the requests around the percentile; without any time of a worker there is no error."""
    records = many(1000)
    records.columns["clock_error_ns"][:] = 2
    assert 2.0 == take(records)["ttft_ns"].percentiles["p50"].clock_error_ns
    records.columns["clock_error_ns"][500] = 13
    # 11 requests around rank 500: (10 * 2 + 13) / 11.
    assert 3.0 == take(records)["ttft_ns"].percentiles["p50"].clock_error_ns
    records.columns["clock_error_ns"][:] = UNKNOWN_NS
    assert 0.0 == take(records)["ttft_ns"].percentiles["p50"].clock_error_ns


def test_means_are_over_all_requests() -> None:
    """Requests 0 to 999 have a prefill of 25 ns and as many us as their number: 499.5 us in the mean."""
    means = take(many(1000))["ttft_ns"].mean_parts_ns
    assert 25 + 499_500 == means["prefill"]
    assert 10 == means["report"]


def test_offline_has_no_first_reports_and_so_no_ttft() -> None:
    """What LoadGen is not told is no quantity; the latency is there."""
    records = build_records(done(REQUEST), [stream([(0, 100, -ORIGIN, *BEGIN[3:])], [END])], ORIGIN)
    assert list(take(records)) == ["latency_ns"]
    empty = build_records(done(), [], ORIGIN)
    assert take(empty) == {}


def many(num: int) -> RequestRecords:
    """Make requests whose prefill takes as many us as their number; everything else is as in one()."""
    begins, ends, rows = [], [], []
    for query in range(num):
        late = 1000 * query
        rows.append(REQUEST | {"query": query, "first_ns": 100 + late, "done_ns": 200 + late})
        begins.append((query, 100 + late, 110 + late, 90 + late, 30, 45, 70 + late))
        ends.append((query, 213 + late, 195 + late, 180 + late))
    return build_records(done(*rows), [stream(begins, ends)], ORIGIN)


@pytest.mark.parametrize("num", [1, 2, 99, 1000])
def test_the_parts_of_a_percentile_are_those_of_the_requests_around_it(num: int) -> None:
    """Ranks within 0.5 % of the percentile's: 11 of 1000; a small run has the one request itself."""
    found = take(many(num))["ttft_ns"].percentiles["p90"]
    rank = int(num * 0.9)
    assert found.value_ns == 100 + 1000 * rank
    assert found.num_requests == (11 if num == 1000 else 1)
    assert found.parts_ns["prefill"] == 25 + 1000 * rank
    assert found.mean_ns == sum(found.parts_ns.values())


def test_requests_that_lost_a_worker_are_counted_where_they_are_averaged() -> None:
    """The requests 997 and 998 of 1000 are among the last 6, and not among the 11 around rank 900."""
    records = many(1000)
    records.columns["losses"][[997, 998]] = 1
    for name in ("ttft_ns", "latency_ns"):
        found = take(records)[name].percentiles
        assert 6 == found["p99.9"].num_requests
        assert (2, 0) == (found["p99.9"].num_continued, found["p90"].num_continued)


@pytest.mark.parametrize(
    ("streams", "expected"),
    [
        ([([], []), ([BEGIN], [END])], {"ttft_ns": 1, "tpot_ns": 0, "latency_ns": 1}),
        ([([BEGIN], []), ([], [END])], {"ttft_ns": 0, "tpot_ns": 1, "latency_ns": 1}),
    ],
    ids=["before the first token", "after it"],
)
def test_a_loss_is_counted_where_its_time_is(
    streams: list[tuple[list[Begin], list[End]]], expected: dict[str, int]
) -> None:
    """A worker lost before the first token is no part of TPOT, one lost after it is no part of TTFT."""
    lost = done(REQUEST | {"losses": 1, "num_tokens": 5})
    records = build_records(lost, [stream(*one) for one in streams], ORIGIN)
    found = take(records).items()
    assert expected == {name: quantity.percentiles["p50"].num_continued for name, quantity in found}


def test_the_window_ends_with_the_run() -> None:
    """P99.9 of 1000 is the last one: its window has the last 6 requests, whose mean is named beside it."""
    found = take(many(1000))["ttft_ns"].percentiles["p99.9"]
    assert (found.num_requests, found.value_ns) == (6, 100 + 999_000)
    assert found.mean_ns == pytest.approx(100 + 1000 * np.mean(range(994, 1000)))
