"""Times of requests on one clock: in order, within their error, and unknown where a worker contradicts."""

import numpy as np

from sut.results.timing.clock_offsets import UNKNOWN_NS
from sut.results.timing.request_records import LOST_LATER, RequestRecords, build_records
from tests.sut.timed_requests import AHEAD, ORIGIN, done, stream

REQUEST = {"sample": 7, "issued_ns": 10, "sent_ns": 20, "first_ns": 100, "done_ns": 200}
BEGIN = (0, 100, 110, 90, 30, 40, 70)
END = (0, 210, 190, 180)
MARKS = (
    *("scheduled_ns", "issued_ns", "sent_ns", "received_ns", "admitted_ns", "first_token_ns"),
    *("first_frame_ns", "first_arrival_ns", "first_reported_ns"),
    *("last_token_ns", "last_frame_ns", "done_arrival_ns", "done_reported_ns"),
)


def marks_of(records: RequestRecords, row: int = 0) -> list[int | None]:
    """List the times of a request in the order of MARKS; None: unknown."""
    found = [int(records.columns[name][row]) for name in MARKS]
    return [None if time == UNKNOWN_NS else time for time in found]


def test_a_request_has_all_its_times_on_our_clock() -> None:
    """Times of both clocks, since the first query: as they were made, +-1 ns and 1 ns for the drift."""
    records = build_records(done(REQUEST), [stream([BEGIN], [END])], ORIGIN)
    assert marks_of(records) == [None, 10, 20, 30, 40, 70, 90, 100, 110, 180, 190, 200, 210]
    one = {name: records.columns[name].tolist() for name in ("query", "sample", "worker", "stream")}
    assert one == {"query": [0], "sample": [7], "worker": [0], "stream": [3]}
    assert (records.columns["clock_error_ns"].tolist(), records.num_contradicting) == ([2], 0)


def test_requests_are_in_the_order_of_issue() -> None:
    """Finished last to first; each keeps its own times; a request that has not finished has no row."""
    rows = [REQUEST | {"query": query, "issued_ns": query} for query in (4, 2, 0)]
    begins = [(query, 100, 110 + query, 90, 30, 40, 70) for query in (0, 3, 4, 5)]
    records = build_records(done(*rows), [stream(begins, [(2, 210, 190, 180)])], ORIGIN)
    assert records.columns["query"].tolist() == [0, 2, 4]
    assert records.columns["issued_ns"].tolist() == [0, 2, 4]
    assert records.columns["first_reported_ns"].tolist() == [110, UNKNOWN_NS, 114]
    assert records.columns["stream"].tolist() == [-1, 3, -1]


def test_times_out_of_order_within_their_error_are_moved() -> None:
    """A ping of 20 ns leaves 10 open: a receipt 5 before the sending is moved onto it, and so on."""
    pings = [[ORIGIN, ORIGIN + AHEAD + 10, ORIGIN + 20]]
    records = build_records(
        done(REQUEST), [stream([(0, 100, 110, 104, 15, 40, 70)], [(0, 210, 208, 180)], pings)], ORIGIN
    )
    assert marks_of(records)[2:8] == [20, 20, 40, 70, 100, 100]
    assert marks_of(records)[9:12] == [180, 200, 200]
    assert (records.columns["clock_error_ns"].tolist(), records.num_contradicting) == ([12], 0)


def test_a_time_is_moved_up_to_its_error_and_not_beyond() -> None:
    """The error is 2 ns for a begin, 4 ns between begin and end, and 2 ns for an end without a begin."""
    begins = {
        (0, 100, 110, 102, 18, 40, 70): [20, 40, 70, 100],
        (1, 100, 110, 90, 17, 40, 70): [None] * 4,
        (2, 100, 110, 103, 30, 40, 70): [None] * 4,
    }
    rows = [REQUEST | {"query": query} for query in range(3)]
    records = build_records(done(*rows), [stream(list(begins), [])], ORIGIN)
    assert list(begins.values()) == [marks_of(records, row)[3:7] for row in range(3)]
    ends = {
        (0, 210, 204, 66): [70, 200],
        (1, 210, 190, 65): [None, None],
        (2, 210, 205, 180): [None, None],
    }
    begun = [(query, *BEGIN[1:]) for query in range(3)]
    records = build_records(done(*rows), [stream(begun, list(ends))], ORIGIN)
    assert list(ends.values()) == [marks_of(records, row)[9:11] for row in range(3)]
    alone = {(0, 210, 190, 18): [20, 190], (1, 210, 190, 17): [None, None]}
    records = build_records(done(*rows[:2]), [stream([], list(alone))], ORIGIN)
    assert list(alone.values()) == [marks_of(records, row)[9:11] for row in range(2)]


def test_the_error_of_a_request_is_the_larger_of_its_streams() -> None:
    """It began on a stream whose ping tells exactly, and ended on one whose ping of 20 ns leaves 10 open."""
    pings = [[ORIGIN, ORIGIN + AHEAD + 10, ORIGIN + 20]]
    exact, rough = stream([BEGIN], []), stream([], [END], pings)
    for streams in ([exact, rough], [rough, exact]):
        assert [12] == build_records(done(REQUEST), streams, ORIGIN).columns["clock_error_ns"].tolist()
    assert [2] == build_records(done(REQUEST), [exact], ORIGIN).columns["clock_error_ns"].tolist()


def test_both_ends_of_loadgens_calls_are_there() -> None:
    """Each call of LoadGen takes 5 ns: reported at 110 and 210, returned at 115 and 215."""
    records = build_records(done(REQUEST), [stream([BEGIN], [END], call_ns=5)], ORIGIN)
    names = ("first_reported_ns", "first_returned_ns", "done_reported_ns", "done_returned_ns")
    assert [110, 115, 210, 215] == [int(records.columns[name][0]) for name in names]


def test_only_a_request_that_lost_its_worker_behind_its_first_token_was_lost_later() -> None:
    """It began on one stream and ended on another; neither an unknown begin nor an unknown end is that."""
    rows = [REQUEST | {"query": query, "losses": min(query, 1)} for query in range(5)]
    # 0: no loss, unknown end. 1: moved later. 2: moved before it began. 3: unknown begin. 4: the same as 1.
    begun = stream([(query, *BEGIN[1:]) for query in (0, 1, 4)], [])
    ended = stream([(2, *BEGIN[1:])], [(query, *END[1:]) for query in (1, 2, 3, 4)])
    for streams in ([begun, ended], [ended, begun]):
        assert [0, 1, 0, 0, 1] == build_records(done(*rows), streams, ORIGIN).columns[LOST_LATER].tolist()


def test_a_worker_that_contradicts_is_not_believed() -> None:
    """A receipt before the sending, times out of order, a token from the future: unknown and counted."""
    lies = [
        (0, 100, 110, 90, 16, 40, 70),
        (1, 100, 110, 90, 30, 80, 70),
        (2, 100, 110, 103, 30, 40, 70),
        (3, 100, 110, 90, 30, 40, 2**62),
    ]
    rows = [REQUEST | {"query": query} for query in range(5)]
    records = build_records(done(*rows), [stream([*lies, (4, *BEGIN[1:])], [])], ORIGIN)
    for row in range(4):
        assert marks_of(records, row)[3:9] == [None] * 4 + [100, 110]
    assert marks_of(records, 4)[3:9] == [30, 40, 70, 90, 100, 110]
    assert records.num_contradicting == 4
    # An end before the begin, and one behind its arrival.
    ends = [(0, 210, 190, 62), (1, 210, 208, 180), (2, *END[1:])]
    begins = [(query, *BEGIN[1:]) for query in range(3)]
    records = build_records(done(*rows[:3]), [stream(begins, ends)], ORIGIN)
    assert [marks_of(records, row)[9:11] for row in range(3)] == [[None] * 2, [None] * 2, [180, 190]]
    assert records.num_contradicting == 2


def test_an_engine_that_does_not_tell_leaves_its_time_unknown() -> None:
    """No admission (0 on the wire), no token at all, and no first report in Offline."""
    untold = -ORIGIN - AHEAD
    begin = (0, 100, -ORIGIN, 90, 30, untold, 70)
    rows = [REQUEST, REQUEST | {"query": 1, "num_tokens": 0, "first_ns": -ORIGIN}]
    records = build_records(done(*rows), [stream([begin], [END, (1, *END[1:])])], ORIGIN)
    assert marks_of(records)[3:9] == [30, None, 70, 90, 100, None]
    assert marks_of(records, 1)[3:9] == [None] * 6
    assert records.num_contradicting == 0


def test_the_last_begin_of_an_answer_counts() -> None:
    """An answer that was cut to nothing at a loss begins again elsewhere; the last arrival is valid."""
    cut = [(query, 60, 61, 50, 30, 40, 45) for query in range(2)]
    first, second = stream([*cut, (2, *BEGIN[1:])], []), stream([BEGIN, (1, *BEGIN[1:])], [END])
    rows = [REQUEST | {"query": query} for query in range(3)]
    for streams in ([first, second], [second, first]):
        records = build_records(done(*rows), streams, ORIGIN)
        for row in range(3):
            assert marks_of(records, row)[3:9] == [30, 40, 70, 90, 100, 110]


def test_no_requests_make_no_rows() -> None:
    """A run that failed before any request had finished."""
    records = build_records(done(), [stream([BEGIN], [])], ORIGIN)
    assert records.num_rows == 0
    assert all(len(column) == 0 for column in records.columns.values())
    assert np.array_equal(records.columns["query"], [])
