"""What measured speed changes in who gets what, over links without a socket."""

from coordinator.scheduling.throughput import Throughput
from tests.coordinator.scheduling.links import STOP
from tests.coordinator.scheduling.test_scheduler import Fleet


def test_offline_a_slow_worker_stops_in_time_and_is_never_idle() -> None:
    """At a tenth of the speed it would need longer for its slots than the fast one for all 41 that wait."""
    fleet = Fleet(False, 8, 8)
    fleet.issue(*range(60))
    fleet.finish(0, 1)
    for load, rate in zip(fleet.loads, (80.0, 8.0), strict=True):
        load.throughput = Throughput(full_tokens_per_s=rate)
    fleet.scheduler.beat(1)
    assert [41, 0] == [load.allowance for load in fleet.loads]
    fleet.finish(1, 3)
    fleet.finish(0, 5)
    assert ([9, 6], 36) == (fleet.outstanding(), len(fleet.scheduler.backlog))
    fleet.finish(1, 6)
    assert ([9, 1], 35) == (fleet.outstanding(), len(fleet.scheduler.backlog))


def test_a_worker_that_comes_back_is_not_bound_by_what_was_measured() -> None:
    """A new stream has no pace and no allowance, so that its window fills at once."""
    fleet = Fleet(False, 8, 8)
    fleet.issue(*range(60))
    fleet.lose(1)
    fleet.loads[1].throughput = Throughput(full_tokens_per_s=1.0)
    fleet.loads[1].set_allowance(0)
    fleet.readmit(1)
    assert ([9, 9], Throughput()) == (fleet.outstanding(), fleet.loads[1].throughput)


def test_server_outstanding_requests_count_by_measured_speed() -> None:
    """At 30 and 10 tokens/s of a request 6 outstanding are less than 3: 6 / 1.5 against 3 / 0.5."""
    fleet = Fleet(True, 8, 8)
    for load, rate, held in zip(fleet.loads, (30.0, 10.0), (6, 3), strict=True):
        load.throughput = Throughput(request_tokens_per_s=rate)
        load.outstanding = held
    fleet.scheduler.beat(1)
    fleet.issue(0)
    assert [1, 0] == [len(link.sent.names) for link in fleet.links]


def test_a_beat_measures_what_frames_brought() -> None:
    """Between two beats, 2 s apart, 4 of 18 requests end, 3 of them in one frame: 2 requests a second."""
    fleet = Fleet(False, 8, 8)
    fleet.issue(*range(60))
    fleet.scheduler.beat(0)
    fleet.finish(0, 3)
    fleet.finish(0, 1)
    fleet.links[0].sent.counts.num_tokens += 4  # counted where a stream reads
    fleet.scheduler.beat(2_000_000_000)
    assert (2.0, 2.0 / 9, 2.0, 3.0) == fleet.loads[0].throughput[:4]
    assert Throughput() == fleet.loads[1].throughput
    assert [STOP] * 4 == fleet.table.done["reason"].tolist()
