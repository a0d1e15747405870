"""Queries over a latency limit are counted once each, and never one that LoadGen would not count."""

import numpy as np

from coordinator.recording.over_latency import REPORT_BOUND_NS, OverLatency, OverLatencyCounter
from coordinator.scheduling.request_columns import NewRequests
from coordinator.scheduling.request_table import RequestTable
from protos import worker_pb2 as pb
from protos.columns import TokenColumns, slots_of

MS = 1_000_000
LIMITS = {"requested_server_ttft_latency": 100 * MS, "requested_server_tpot_latency": 20 * MS}


class Requests:
    """Requests of one worker, named by their slots."""

    def __init__(self) -> None:
        self.table = RequestTable(1000)

    def issue(self, issued_ms: int) -> int:
        """Issue one request; returns its name."""
        one = np.ones(1, np.int64)
        new = NewRequests(one.astype(np.uint64), one, one, issued_ms * MS * one, issued_ms * MS, one)
        return int(self.table.assign(new, 0)[0])

    def answer(self, name: int, num_tokens: int, now_ms: float, ends: bool = False) -> None:
        """Let tokens arrive, the last ones if the answer ends."""
        columns = TokenColumns(
            requests=np.array([name], np.uint64),
            counts=np.array([num_tokens], np.uint32),
            tokens=np.ones(num_tokens, np.int32),
            finished_rows=np.array([0] * ends, np.uint32),
            finish_reasons=np.array([pb.FINISH_REASON_STOP] * ends, np.uint8),
            produced_ns=0,
        )
        self.table.add_tokens(0, columns, int(now_ms * MS))
        if ends:
            slots = slots_of(columns.requests).tolist()
            self.table.finish(slots, [pb.FINISH_REASON_STOP], int(now_ms * MS))
            self.table.take_answers()


def counts(counter: OverLatencyCounter, now_ms: int) -> tuple[int, int]:
    """Count, and return the numbers."""
    found = counter.count(now_ms * MS)
    return found.num_ttft, found.num_tpot


def test_each_query_counts_once_however_often_it_is_looked_at() -> None:
    """A query over a limit in flight is the same one when it has finished."""
    requests = Requests()
    counter = OverLatencyCounter(requests.table, LIMITS, None)
    late, prompt = requests.issue(0), requests.issue(50)
    assert (0, 0) == counts(counter, 100)
    # Without a token, 101 ms after its issue.
    assert (1, 0) == counts(counter, 101)
    requests.answer(late, 1, 120)
    requests.answer(prompt, 1, 150)
    assert (1, 0) == counts(counter, 500)
    # 10 tokens after the first in 210 ms plus the bound: 21 ms each, over; in 200 ms: 20 ms each, not over.
    bound_ms = REPORT_BOUND_NS / MS
    requests.answer(late, 10, 120 + 210 + bound_ms, ends=True)
    requests.answer(prompt, 10, 150 + 200 + bound_ms, ends=True)
    assert (1, 1) == counts(counter, 500)
    assert (1, 1) == counts(counter, 501)


def test_an_answer_of_one_token_has_no_tpot() -> None:
    """Its TTFT counts, its TPOT does not exist."""
    requests = Requests()
    counter = OverLatencyCounter(requests.table, LIMITS, None)
    requests.answer(requests.issue(0), 1, 101, ends=True)
    assert (1, 0) == counts(counter, 500)


def test_the_bound_is_exceeded_by_one_more() -> None:
    """The line names number, limit and bound; as many as the bound are allowed."""
    limits = {"ttft_limit_ns": 100 * MS, "tpot_limit_ns": 20 * MS}
    assert "" == OverLatency(**limits, num_ttft=45, num_tpot=45, bound=45).exceeds
    assert "" == OverLatency(**limits, num_ttft=99, num_tpot=99, bound=None).exceeds
    line = "46 queries over 20 ms TPOT, more than --max-over-latency 45"
    assert line == OverLatency(**limits, num_ttft=0, num_tpot=46, bound=45).exceeds
