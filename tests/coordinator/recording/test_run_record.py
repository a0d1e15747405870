"""The record of a run: a spread says of a quantity what was seen of it; the acceptance length."""

from array import array

import numpy as np
import pytest

from coordinator.recording.run_record import WorkerRow, acceptance_length, report_delays_ns
from coordinator.scheduling.request_columns import DONE
from coordinator.scheduling.worker_load import RequestTimes, WorkerLoad
from coordinator.transport.stream import StreamCounts
from protos import worker_pb2 as pb
from sut.results.timing.spread import Spread
from tests.coordinator.scheduling.links import FakeLink

MS, S = 10**6, 10**9


def test_a_spread_has_both_ends() -> None:
    """Of 30, 10 and 20: lowest, mean and highest; the median is LoadGen's, sorted[int(3 * 0.5)]."""
    spread = Spread.of(np.array([30, 10, 20]))
    assert (3, 10, 20.0, 30) == (spread.count, spread.minimum, spread.mean, spread.maximum)
    assert 20 == spread.percentiles["p50"]


def test_no_values_have_no_figures() -> None:
    """Where nothing was seen every figure is 0, and there are no percentiles."""
    assert Spread(0, 0.0, 0, {}, 0) == Spread.of(np.zeros(0, np.int64))


def counts_of(rows: int, tokens: int, **engine_args: str) -> StreamCounts:
    """Return the counts of a stream to an engine with these arguments."""
    info = pb.WorkerInfo(engine_args=engine_args)
    return StreamCounts(decode_rows=rows, decode_tokens=tokens, info=info)


def test_the_acceptance_length_is_of_the_engines_that_speculate() -> None:
    """30 and 60 tokens in 10 and 25 rows are 90 / 35; engines of one token a row are left out."""
    plain = counts_of(1000, 1000)
    assert acceptance_length([plain]) is None
    drafting = {"speculative_config": '{"method": "eagle3"}'}
    assert acceptance_length([counts_of(0, 0, **drafting)]) is None
    some = [counts_of(10, 30, **drafting), plain, counts_of(25, 60, speculative_algorithm='"EAGLE3"')]
    assert 90 / 35 == acceptance_length(some)


def test_a_network_sut_has_no_acceptance_length() -> None:
    """It sends the first token and then the rest of an answer: no tokens of an engine step."""
    rest = counts_of(1, 1277, speculative_config='{"method": "eagle3"}')
    rest.info.execution_facts["num_workers"] = "2"
    assert acceptance_length([rest]) is None


def test_a_worker_ends_since_the_first_query_that_was_issued() -> None:
    """Issued at 100 ns, the first query of a run that failed is not among the complete ones.

    The only complete one, issued at 150, ended at 400: 300 after the first, as in requests.parquet.
    """
    link = FakeLink(0)
    link.stream_counts.append(StreamCounts())
    done = np.zeros(1, DONE)
    done["issued_ns"], done["done_ns"] = 150, 400
    assert 300 == WorkerRow.of(link, WorkerLoad(link), done, first_issued_ns=100).ended_ns


def test_the_service_of_a_worker_is_that_of_its_own_requests() -> None:
    """The second of two requests waited 9 s at a lost worker: the service is the first one's, 1 s."""
    done = np.zeros(2, DONE)
    done["sent_ns"], done["done_ns"], done["losses"] = 0, [1 * S, 10 * S], [0, 1]
    link = FakeLink(0)
    link.stream_counts.append(StreamCounts())
    row = WorkerRow.of(link, WorkerLoad(link), done, first_issued_ns=0)
    assert (2, 1, 1.0 * S) == (row.requests, row.service_ns.count, row.service_ns.mean)


def test_steps_are_known_if_every_stream_has_told_its_last_count() -> None:
    """7 and 5 steps are 12; a stream that was lost with 5 steps in its last pong may have had more."""
    link = FakeLink(0)
    settled, lost = StreamCounts(engine_steps=7, settled=True), StreamCounts(engine_steps=5)
    link.stream_counts += [settled, lost]
    none = np.zeros(0, DONE)
    assert WorkerRow.of(link, WorkerLoad(link), none, first_issued_ns=0).engine_steps is None
    lost.settled = True
    assert 12 == WorkerRow.of(link, WorkerLoad(link), none, first_issued_ns=0).engine_steps


def drifting_times(rate_ppm: int) -> RequestTimes:
    """Make ten minutes of reports, one a second, each 2 ms after the engine's output on another machine.

    The worker's clock is 10 s ahead and gains `rate_ppm` us a second. A ping each second takes 1 ms.
    """
    ours = np.arange(1, 601) * S
    workers = ours + 10 * S + ours * rate_ppm // 10**6
    counts = StreamCounts(clock_offset_ns=10 * S)
    counts.pings.extend(np.stack([ours - MS // 2, workers, ours + MS // 2], axis=1).ravel().tolist())
    reports_ns = ours + 2 * MS
    delays_ns = reports_ns - workers
    return RequestTimes(
        counts, array("q", delays_ns.tolist()), array("q", reports_ns.tolist()), array("q"), array("q")
    )


@pytest.mark.parametrize("rate_ppm", [0, 50, -50])
def test_a_report_delay_does_not_drift_with_the_clocks(rate_ppm: int) -> None:
    """After 600 s of 50 ppm the clocks differ by 30 ms more: every delay is 2 ms, to half a ping."""
    found = report_delays_ns(drifting_times(rate_ppm))
    assert 600 == len(found)
    assert 1.5 * MS <= found.min() <= found.max() <= 2.5 * MS


def test_report_delays_on_one_clock_are_differences() -> None:
    """Without an offset beyond the pings' error, and without any ping, nothing is mapped."""
    times = RequestTimes(StreamCounts(), array("q", [3, 5]), array("q", [103, 205]), array("q"), array("q"))
    assert [3, 5] == report_delays_ns(times).tolist()
