"""Load and measurements of one worker; only the scheduler changes them."""

import struct
from array import array
from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coordinator.scheduling.routing import NO_LIMIT, LoadRank, ceiling
from coordinator.scheduling.throughput import Reading, Throughput, measure, prefetch
from coordinator.transport.stream import Stream, StreamCounts
from coordinator.transport.worker_link import WorkerLink
from protos.columns import SLOT_MASK, PromptColumns, RequestNames, TokenColumns, TokenTimes
from sut.loadgen import CallTimes

NUM_BEGIN_COLUMNS, NUM_END_COLUMNS = 8, 5
# An array takes packed bytes at half the cost of a tuple.
_BEGIN, _END = struct.Struct(f"={NUM_BEGIN_COLUMNS}q"), struct.Struct(f"={NUM_END_COLUMNS}q")
NO_CALL = 0, 0


class RequestTimes(NamedTuple):
    """Times of the requests that began or ended on one stream; 0: unknown.

    Worker times are as received, by the worker's clock; any value of 63 bits may be there.
    """

    counts: StreamCounts
    """Counts of the same stream, including the offset between the two clocks."""
    delays_ns: "array[int]"
    """Per frame with a first token or completion: end of report (our clock) minus production (worker's)."""
    reports_ns: "array[int]"
    """Per delay: the end of the report (our clock)."""
    begins: "array[int]"
    """Rows of NUM_BEGIN_COLUMNS numbers, one per request whose answer began here: query, arrival, call of
    LoadGen and its return (our clock), then sending of its frame, receipt of the request, admission and first
    token (worker's clock)."""
    ends: "array[int]"
    """Rows of NUM_END_COLUMNS numbers, one per request that ended here: query, call of LoadGen and its
    return (our clock), then sending of its last frame and last token (worker's clock)."""


class Reported(NamedTuple):
    """What was reported to LoadGen of one frame, and when."""

    begun: list[int]
    """Slots of the requests whose first token arrived."""
    queries: list[int]
    """Numbers in the order of issue, of these requests and then of those that finished."""
    first_call: CallTimes
    """Of LoadGen for their first tokens; NO_CALL: there is none in this scenario."""
    done_call: CallTimes
    """Of LoadGen for the finished requests."""


_NO_TIMES = TokenTimes(0, [], [], [], [], [])
_UNKNOWN = (0, 0, 0)


class WorkerLoad:
    """State of one worker for dispatch; every method runs on the event loop's thread."""

    def __init__(self, link: WorkerLink) -> None:
        """Start without requests."""
        self._link = link
        self.index = link.index
        self.address = link.address
        self._stream: Stream | None = None
        self.request_times: list[RequestTimes] = []
        """One per stream that carried requests."""
        self.num_dropped_tokens = 0
        """Tokens received after their request was moved to another worker, or behind the end of an answer."""
        self._reset()

    def begin_stream(self) -> None:
        """Reset the load for a new stream, which may lead to a new process with another speed."""
        self._reset()
        stream = self._stream = self._link.stream
        self.request_times.append(RequestTimes(stream.counts, *(array("q") for _ in range(4))))

    def _reset(self) -> None:
        self.max_num_seqs = self._link.info.max_num_seqs
        self.outstanding = 0
        """Requests sent and not finished."""
        self.waiting_prefill_tokens = 0
        """Prompt tokens of requests without a first token."""
        self.last_prompt_ns = 0
        """When the worker got its last prompt."""
        self.throughput = Throughput()
        self.speed = 1.0
        """Server: tokens/s per request, relative to the fleet's mean."""
        self.rank = LoadRank(0, 0.0, 0)
        """Computed from the counts above; cached because dispatch compares it for every query."""
        self.allowance = NO_LIMIT
        """Offline: new requests it may still get until the next beat; see routing.allowances."""
        self.moved: set[int] = set()
        """Names of requests moved away from the stream; their late tokens are dropped."""
        self._num_delays_read = 0
        self._num_finished = 0
        self._most_finished = 0
        self._reading: Reading | None = None

    @property
    def window(self) -> int:
        """Offline: most requests the worker may have, its slots plus prefetch."""
        return self.max_num_seqs + prefetch(self.throughput, self.max_num_seqs)

    @property
    def ceiling(self) -> int:
        """Offline: most requests the worker may have now: its window, limited by its allowance."""
        return ceiling(self.outstanding, self.window, self.allowance)

    def send(self, prompts: PromptColumns, now_ns: int) -> None:
        """Send requests."""
        assert self._stream is not None, "the worker was not admitted"
        self._stream.send(prompts)
        self.waiting_prefill_tokens += len(prompts.prompt_tokens)
        self.last_prompt_ns = now_ns
        self.outstanding += len(prompts.requests)
        self._update_rank()

    def use_allowance(self, num_requests: int) -> None:
        """Count new Offline requests against the allowance."""
        self.allowance = max(self.allowance - num_requests, 0)

    def prefilled(self, num_tokens: int) -> None:
        """Subtract prompt tokens of requests whose prefill has ended."""
        self.waiting_prefill_tokens -= num_tokens
        self._update_rank()

    def finished(self, num_requests: int) -> None:
        """Count requests that one frame finished."""
        self.outstanding -= num_requests
        self._update_rank()
        self._num_finished += num_requests
        self._most_finished = max(self._most_finished, num_requests)

    def reported(self, columns: TokenColumns, arrival_ns: int, reported: Reported) -> None:
        """Record the times of a frame that was reported to LoadGen; costs nothing for other frames."""
        begun, queries, first_call, done_call = reported
        _, delays_ns, reports_ns, begins, ends = self.request_times[-1]
        report_ns = done_call[1] or first_call[1] or arrival_ns
        reports_ns.append(report_ns)
        delays_ns.append(report_ns - columns.produced_ns)
        sent_ns, rows, received_ns, admitted_ns, first_ns, last_ns = columns.times or _NO_TIMES
        if begun:
            ours = (arrival_ns, *first_call, sent_ns)
            if len(begun) == len(rows) == 1 and columns.requests.item(rows[0]) & SLOT_MASK == begun[0]:
                told = (received_ns[0], admitted_ns[0], first_ns[0])
                begins.frombytes(_BEGIN.pack(queries[0], *ours, *told))
            else:
                self._add_begins(columns, reported, ours)
        if done_call[0]:
            for query, last in zip(queries[len(begun) :], last_ns or repeat(0), strict=False):
                ends.frombytes(_END.pack(query, *done_call, sent_ns, last))

    def _add_begins(self, columns: TokenColumns, reported: Reported, ours: tuple[int, ...]) -> None:
        """Record any number of begins.

        Args:
            columns: The frame.
            reported: What was reported of it.
            ours: When it arrived, LoadGen was called and returned, and it was sent.
        """
        times = columns.times or _NO_TIMES
        told = zip(times.received_ns, times.admitted_ns, times.first_ns, strict=True)
        slots = map(SLOT_MASK.__and__, map(columns.requests.item, times.first_rows))
        # A continued request begins at this worker, but its answer has begun before.
        told_by_slot = dict(zip(slots, told, strict=True))
        for query, slot in zip(reported.queries, reported.begun, strict=False):
            row = _BEGIN.pack(query, *ours, *told_by_slot.get(slot, _UNKNOWN))
            self.request_times[-1].begins.frombytes(row)

    def lose(self) -> None:
        """Reset the counts of outstanding work of a lost worker."""
        self.outstanding = self.waiting_prefill_tokens = 0
        self._update_rank()

    def take_back(self, names: RequestNames, prefill_tokens: int) -> None:
        """Cancel requests that move to another worker; their late tokens are dropped.

        Args:
            names: (R,) requests to cancel.
            prefill_tokens: Prompt tokens of these requests that the worker still had to prefill.
        """
        assert self._stream is not None, "the worker was not admitted"
        self._stream.cancel_requests(names)
        self.moved.update(names.tolist())
        self.waiting_prefill_tokens -= prefill_tokens
        self.outstanding -= len(names)
        self._update_rank()

    def without_moved(self, columns: TokenColumns) -> TokenColumns:
        """Drop the rows of requests that were moved to another worker."""
        kept, num_dropped = drop_rows(columns, self.moved)
        self.drop(num_dropped)
        return kept

    def drop(self, num_tokens: int) -> None:
        """Count received tokens that belong to no answer."""
        self.num_dropped_tokens += num_tokens

    def set_speed(self, speed: float) -> None:
        """Server: set the speed relative to the fleet."""
        self.speed = speed
        self._update_rank()

    def set_allowance(self, num_requests: int) -> None:
        """Offline: set how many new requests the worker may get until the next beat."""
        self.allowance = num_requests

    def _update_rank(self) -> None:
        self.rank = LoadRank(self.waiting_prefill_tokens, self.outstanding / self.speed, self.last_prompt_ns)

    def measure(self, now_ns: int) -> None:
        """Update the measured throughput; called each BEAT_INTERVAL_S."""
        counts, delays_ns, *_ = self.request_times[-1]
        new_delays_ns = delays_ns[self._num_delays_read :]
        way_ns = max(new_delays_ns) + counts.clock_offset_ns if new_delays_ns else 0
        reading = Reading(
            at_ns=now_ns,
            num_tokens=counts.num_tokens,
            num_finished=self._num_finished,
            outstanding=self.outstanding,
            most_finished=self._most_finished,
            refill_s=(max(way_ns, 0) + counts.round_trip_ns) / 1e9,
        )
        if self._reading is not None:
            self.throughput = measure(self.throughput, self._reading, reading, self.max_num_seqs)
        self._reading, self._most_finished = reading, 0
        self._num_delays_read = len(delays_ns)


def drop_rows(columns: TokenColumns, names: set[int]) -> tuple[TokenColumns, int]:
    """Remove the rows of some requests.

    Returns:
        The other rows, and the number of tokens removed.
    """
    keep = ~np.isin(columns.requests, np.fromiter(names, np.uint64, len(names)))
    if keep.all():
        return columns, 0
    counts = np.ones(len(keep), np.uint32) if columns.counts is None else columns.counts
    kept_tokens = columns.tokens[np.repeat(keep, counts)]
    new_rows = np.cumsum(keep) - 1
    ends = keep[columns.finished_rows]
    kept = columns._replace(
        requests=columns.requests[keep],
        counts=counts[keep],
        tokens=kept_tokens,
        finished_rows=new_rows[columns.finished_rows[ends]].astype(np.uint32),
        finish_reasons=columns.finish_reasons[ends],
        times=columns.times and _drop_times(columns.times, keep, ends),
    )
    return kept, len(columns.tokens) - len(kept_tokens)


def _drop_times(times: TokenTimes, keep: NDArray[np.bool_], ends: NDArray[np.bool_]) -> TokenTimes:
    """Remove the times of rows; keep: (R,) rows kept, ends: (F,) finished rows kept."""
    begins = [index for index, row in enumerate(times.first_rows) if keep[row]]
    new_rows = np.cumsum(keep) - 1
    return TokenTimes(
        sent_ns=times.sent_ns,
        first_rows=[int(new_rows[times.first_rows[index]]) for index in begins],
        received_ns=[times.received_ns[index] for index in begins],
        admitted_ns=[times.admitted_ns[index] for index in begins],
        first_ns=[times.first_ns[index] for index in begins],
        last_ns=[ns for ns, end in zip(times.last_ns, ends, strict=True) if end],
    )
