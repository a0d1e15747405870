"""What measured speed changes in who gets what, over links without a socket."""

from coordinator.scheduling.throughput import Pace
from tests.coordinator.scheduling.links import STOP
from tests.coordinator.scheduling.test_scheduler import Ways


def test_offline_a_slow_worker_stops_in_time_and_is_never_idle() -> None:
    """At a tenth of the speed it would need longer for its slots than the fast one for all 41 that wait."""
    ways = Ways(False, 8, 8)
    ways.issue(*range(60))
    ways.finish(0, 1)
    for link, rate in zip(ways.links, (80.0, 8.0), strict=True):
        link.pace = Pace(full_tokens_per_s=rate)
    ways.flow.look(1)
    assert [41, 0] == [link.allowance for link in ways.links]
    ways.finish(1, 3)
    ways.finish(0, 5)
    assert ([9, 6], 36) == (ways.outstanding(), len(ways.flow.backlog))
    ways.finish(1, 6)
    assert ([9, 1], 35) == (ways.outstanding(), len(ways.flow.backlog))


def test_a_worker_that_comes_back_is_not_bound_by_what_was_measured() -> None:
    """A new stream has no pace and no allowance, so that its window fills at once."""
    ways = Ways(False, 8, 8)
    ways.issue(*range(60))
    ways.lose(1)
    ways.links[1].pace, ways.links[1].allowance = Pace(full_tokens_per_s=1.0), 0
    ways.links[1].come_back()
    ways.flow.dispatch()
    assert ([9, 9], Pace()) == (ways.outstanding(), ways.links[1].pace)


def test_server_outstanding_requests_count_by_measured_speed() -> None:
    """At 30 and 10 tokens/s of a request 6 outstanding are less than 3: 6 / 1.5 against 3 / 0.5."""
    ways = Ways(True, 8, 8)
    for link, rate, held in zip(ways.links, (30.0, 10.0), (6, 3), strict=True):
        link.pace = Pace(request_tokens_per_s=rate)
        link.sent.outstanding = held
    ways.flow.look(1)
    ways.issue(0)
    assert [1, 0] == [len(link.sent.names) for link in ways.links]


def test_a_beat_measures_what_frames_brought() -> None:
    """Between two beats, 2 s apart, 4 of 18 requests end, 3 of them in one frame: 2 requests a second."""
    ways = Ways(False, 8, 8)
    ways.issue(*range(60))
    ways.flow.look(0)
    ways.finish(0, 3)
    ways.finish(0, 1)
    ways.links[0].sent.counts.num_tokens += 4  # counted where a stream reads
    ways.flow.look(2_000_000_000)
    pace = ways.links[0].pace
    assert (2.0, 2.0 / 9, 2.0, 3.0) == pace[:4]
    assert Pace() == ways.links[1].pace
    assert [STOP] * 4 == ways.ledger.done["reason"].tolist()
