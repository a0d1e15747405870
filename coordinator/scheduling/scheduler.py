"""The scheduler: dispatches LoadGen's requests to workers and reports their tokens to LoadGen.

`issue` runs on LoadGen's thread, everything else on the event loop's thread.
"""

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coordinator.scheduling import routing
from coordinator.scheduling.backlog import Backlog, IssuedRequests
from coordinator.scheduling.degenerate_answers import DegenerateAnswers
from coordinator.scheduling.failover import Failover
from coordinator.scheduling.network_audit import NetworkAudit
from coordinator.scheduling.prompt_source import PromptSource
from coordinator.scheduling.request_columns import NewRequests, Slots, TokenCounts
from coordinator.scheduling.request_table import RequestTable
from coordinator.scheduling.throughput import relative_speeds
from coordinator.scheduling.worker_load import NO_CALL, Reported, WorkerLoad
from coordinator.transport.worker_link import WorkerLink
from protos import worker_pb2 as pb
from protos.columns import AnswerRules, PromptColumns, TokenColumns, TokenIds
from sut.loadgen import CallTimes
from sut.sut import Reports

logger = logging.getLogger(__name__)

MAX_NAMED = 10
# Finished answers are passed on together, at the latest when this many wait.
MAX_UNTAKEN = 1024
Keep = Callable[[NDArray[np.int64], TokenCounts, TokenIds], None]
"""Receives finished answers: samples (R,), token counts (R,), concatenated tokens (T,)."""


class Task(NamedTuple):
    """Inputs and callbacks of a run."""

    dataset: PromptSource
    """The prompts."""
    reports: Reports
    """Receives first tokens and completions."""
    max_new_tokens: int
    """Token budget of each request."""
    max_losses: int
    """The run fails when one request has lost its worker this many times in a row without a new token."""
    keep: Keep
    """Receives every finished answer."""
    audit: NetworkAudit | None = None
    """Network division: every message has one sample and is recorded; None otherwise."""


class Unfinished(NamedTuple):
    """Requests that were not complete when the run ended."""

    samples: NDArray[np.int64]
    """(R,)"""
    counts: TokenCounts
    """(R,) number of tokens received; 0 for a request that was never sent."""
    tokens: TokenIds
    """(T,) concatenated."""


NOTHING_UNFINISHED = Unfinished(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32))


class Scheduler:
    """Dispatches and tracks all requests of one run."""

    def __init__(
        self,
        task: Task,
        links: Sequence[WorkerLink],
        on_failed: Callable[[str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Start without requests.

        Args:
            task: Inputs and callbacks of the run.
            links: All workers, which agree; requests are sent to admitted ones only.
            on_failed: Called with the reason when the run cannot continue.
            loop: The event loop on which all methods except `issue` run.
        """
        self._task = task
        self._reports = task.reports
        self.audit = task.audit
        # A Network SUT gets every sample at once, whatever the scenario.
        self._is_server = task.reports.reports_first_tokens or task.audit is not None
        self._on_failed = on_failed
        self._loop = loop
        self._inbox: deque[tuple[int, list[int], list[int]]] = deque()
        self._wake_up_pending = False
        self.loads = [WorkerLoad(link) for link in links]
        self._ready: list[WorkerLoad] = []
        rules = AnswerRules(links[0].info.vocab_size, links[0].info.stop_token_ids)
        self.table = RequestTable(task.max_new_tokens, first_generation=secrets.randbits(32), rules=rules)
        self.backlog = Backlog()
        self.failover = Failover(self.table, task.dataset, task.max_new_tokens, task.max_losses)
        self.degenerate = DegenerateAnswers(task.dataset, task.max_new_tokens)
        self._failed = False
        self.num_issued = 0
        """Number of requests that LoadGen has issued."""
        self.first_issued_ns = 0
        """When LoadGen issued the first query; 0 before it."""
        self._one_budget = np.array([task.max_new_tokens], np.uint32)
        self._none_produced = np.zeros(1, np.uint32)

    @property
    def outstanding(self) -> list[int]:
        """Number of requests on each worker."""
        return [load.outstanding for load in self.loads]

    @property
    def num_waiting(self) -> int:
        """Number of requests that LoadGen has issued and that have not been sent to a worker.

        Thread: any; the counts may change while they are read, by a request or two.
        """
        return max(self.num_issued - self.table.num_done - self.table.num_in_flight, 0)

    def issue(self, loadgen_ids: list[int], samples: list[int]) -> None:
        """Queue one query and wake the event loop.

        Thread: LoadGen's; does not block.
        """
        self._inbox.append((time.monotonic_ns(), loadgen_ids, samples))
        # The loop clears the flag before it empties the inbox. If the flag is set here, the loop has yet to
        # empty the inbox and will find this query. In the opposite order a query could stay there unseen.
        if not self._wake_up_pending:
            self._wake_up_pending = True
            self._loop.call_soon_threadsafe(self._dispatch_issued)

    def dispatch(self) -> None:
        """Send the requests that may be sent now, those that have lost their worker first."""
        if self._failed or not self._ready:
            return
        if self._is_server:
            self._push()
        else:
            self._pull()

    def deliver(self, worker: int, columns: TokenColumns) -> None:
        """Store a frame, report it to LoadGen, and refill the worker's window.

        Raises:
            FrameError: The frame does not match the requests on the worker, or holds a token or an end that
                no answer of this run can have; then nothing of it is stored.
        """
        now_ns = time.monotonic_ns()
        load = self.loads[worker]
        if self.audit is not None:
            self.audit.add_received(columns)
        if load.moved:
            columns = load.without_moved(columns)
        arrivals = self.table.add_tokens(worker, columns, now_ns)
        if arrivals.prefilled_tokens:
            load.prefilled(arrivals.prefilled_tokens)
        begun, ended = arrivals.first_slots, arrivals.finished_slots
        if not begun and not ended:
            return
        first_call = done_call = NO_CALL
        if begun and self._reports.reports_first_tokens:
            first = self.table.reportable(begun)
            first_call = self._reports.first_tokens(first.loadgen_ids, first.addresses)
        if ended:
            done_call = self._finish(ended, arrivals.finish_reasons, now_ns)
            load.finished(len(ended))
            if not self._is_server or self.failover.waiting:
                self._refill(load)
        load.reported(columns, now_ns, Reported(begun, arrivals.queries, first_call, done_call))

    def beat(self, now_ns: int) -> None:
        """Measure every worker and divide the backlog again; called once per BEAT_INTERVAL_S."""
        for load in self._ready:
            load.measure(now_ns)
        if self._is_server:
            speeds = relative_speeds([load.throughput for load in self._ready])
            for load, speed in zip(self._ready, speeds, strict=True):
                load.set_speed(speed)
        elif self.backlog and self._ready:
            self._divide()
            self.dispatch()

    def keep_answers(self) -> None:
        """Pass on the answers finished since the last call."""
        if self.table.num_untaken:
            answers = self.table.take_answers()
            self._task.keep(*answers)
            self.degenerate.add(*answers)

    def lose(self, worker: int, reason: str) -> None:
        """Continue a lost worker's requests on other workers."""
        load = self.loads[worker]
        self._ready.remove(load)
        slots = self.table.held_by(worker)
        load.lose()
        self._fail_over(load, slots, reason)
        logger.warning(
            "worker %s lost: %s; %d requests continue on other workers with their %d tokens",
            load.address,
            reason,
            len(slots),
            self.failover.losses[-1].kept_tokens,
        )
        self.dispatch()

    def admit(self, worker: int) -> None:
        """Send requests to a worker whose stream has been opened."""
        load = self.loads[worker]
        load.begin_stream()
        self._ready = [other for other in self.loads if other in self._ready or other is load]
        self.dispatch()

    def move(self, worker: int, slots: Slots, reason: str) -> None:
        """Move requests from a live worker to other workers."""
        load = self.loads[worker]
        load.take_back(self.table.names(slots), int(self.table.rows(slots)["prefill_len"].sum()))
        self._fail_over(load, slots, reason, is_move=True)
        self.dispatch()

    def fail(self, reason: str) -> None:
        """End the run."""
        self._on_failed(reason)

    def abandon(self) -> Unfinished:
        """Stop dispatching, pass on the finished answers and return the unfinished requests."""
        self._failed = True
        self.keep_answers()
        slots = self.table.in_flight()
        counts, tokens = self.table.answers(slots)
        waiting = self.backlog.take(len(self.backlog)).samples
        samples = np.concatenate([self.table.rows(slots)["sample"], waiting])
        return Unfinished(samples, np.concatenate([counts, np.zeros_like(waiting)]), tokens)

    def _dispatch_issued(self) -> None:
        """Dispatch the queries that LoadGen has issued."""
        self._wake_up_pending = False
        while self._inbox:
            issued_ns, loadgen_ids, samples = self._inbox.popleft()
            first = self.num_issued
            self.first_issued_ns = self.first_issued_ns or issued_ns
            self.num_issued += len(loadgen_ids)
            waiting = self.failover.waiting or self.backlog.waiting
            if self._is_server and self._ready and not waiting and not self._failed:
                for query, (loadgen_id, sample) in enumerate(zip(loadgen_ids, samples, strict=True), first):
                    self._push_one((loadgen_id, sample, issued_ns, query))
            else:
                self.backlog.add(loadgen_ids, samples, issued_ns, first)
        if self.backlog.waiting:
            self.dispatch()

    def _push_one(self, issued: tuple[int, int, int, int]) -> None:
        """Server: send one row of IssuedRequests to the least loaded worker; avoids numpy for speed."""
        load = routing.least_loaded(self._ready)
        now_ns = time.monotonic_ns()
        prompt = self._task.dataset.prompt(issued[1])
        if self.audit is not None:
            self.audit.add_sent(len(prompt))
        name = self.table.assign_one(issued, load.index, len(prompt), now_ns)
        names, lens = np.array([name], np.uint64), np.array([len(prompt)], np.uint32)
        load.send(PromptColumns(names, lens, prompt, self._one_budget, self._none_produced), now_ns)

    def _push(self) -> None:
        """Server: send all waiting requests, each to the least loaded worker.

        A worker that returns after a loss does not get requests already queued on other workers.
        """
        while self.failover:
            fitting = [load for load in self._ready if self.failover.next_fits(load)]
            self._continue(routing.least_loaded(fitting or self._ready), 1, alone=not fitting)
        waiting = self.backlog.take(len(self.backlog))
        for request in zip(*(column.tolist() for column in waiting), strict=True):
            self._push_one(request)

    def _pull(self) -> None:
        """Offline: fill each worker's window; the remaining requests stay in the backlog."""
        if self.failover:
            self._pull_continued()
        outstanding = np.array([load.outstanding for load in self._ready])
        ceilings = np.array([load.ceiling for load in self._ready])
        shares = routing.share(outstanding, ceilings, len(self.backlog))
        if not shares.any():
            return
        requests = self.backlog.take(int(shares.sum()))
        workers = routing.interleave_shares(shares)
        for index in np.flatnonzero(shares):
            self._start(self._ready[index], requests.rows(workers == index))

    def _pull_continued(self) -> None:
        """Distribute requests that lost their worker: first evenly, then to any window with room."""
        order = sorted(self._ready, key=lambda load: load.outstanding)
        for most in (-(-len(self.failover) // len(order)), len(self.failover)):
            for load in order:
                room = max(load.window - load.outstanding, 0)
                self._continue(load, min(most, room), alone=len(order) == 1)

    def _divide(self) -> None:
        """Offline: set each worker's share of the backlog so that all workers finish together."""
        parts = routing.allowances(
            len(self.backlog),
            np.array([load.max_num_seqs for load in self._ready], np.int64),
            np.array([load.throughput.full_tokens_per_s for load in self._ready]),
        )
        for load, part in zip(self._ready, parts.tolist(), strict=True):
            load.set_allowance(part)

    def _refill(self, load: WorkerLoad) -> None:
        """Refill a worker after a frame has finished requests; other workers have gained no room.

        If requests have lost their worker, dispatch to all workers instead.
        """
        if self.failover:
            self.dispatch()
        elif self.backlog and not self._failed:
            room = min(max(load.ceiling - load.outstanding, 0), len(self.backlog))
            if room:
                self._start(load, self.backlog.take(room))

    def _start(self, load: WorkerLoad, issued: IssuedRequests) -> None:
        """Offline: send requests from the backlog to a worker."""
        now_ns = time.monotonic_ns()
        load.use_allowance(len(issued.samples))
        lens, tokens = self._task.dataset.gather(issued.samples)
        new = NewRequests(
            issued.loadgen_ids,
            issued.samples,
            lens.astype(np.int64),
            issued.issued_ns,
            now_ns,
            issued.queries,
        )
        names = self.table.assign(new, load.index)
        budgets = np.full(len(names), self._task.max_new_tokens, np.uint32)
        load.send(PromptColumns(names, lens, tokens, budgets, np.zeros(len(names), np.uint32)), now_ns)

    def _continue(self, load: WorkerLoad, num: int, *, alone: bool) -> None:
        """Send up to `num` requests that have lost their worker to this one."""
        now_ns = time.monotonic_ns()
        prompts = self.failover.give(load, num, now_ns, alone=alone)
        if len(prompts.requests):
            load.send(prompts, now_ns)

    def _fail_over(self, load: WorkerLoad, slots: Slots, reason: str, *, is_move: bool = False) -> None:
        """Queue requests for other workers; fail the run if a request has lost its worker too often."""
        now_ns = time.monotonic_ns()
        complete = self.failover.take_from(load, slots, reason, now_ns, is_move=is_move)
        if len(complete):
            self._finish(complete.tolist(), [pb.FINISH_REASON_LENGTH] * len(complete), now_ns)
        rows = self.table.rows(slots)
        suspects = rows[(rows["stalled_losses"] >= self._task.max_losses) & ~np.isin(slots, complete)]
        if len(suspects):
            self._failed = True
            named = ", ".join(map(str, suspects["sample"][:MAX_NAMED]))
            more = f" and {len(suspects) - MAX_NAMED} more" if len(suspects) > MAX_NAMED else ""
            self._on_failed(
                f"sample {named}{more} was taken from {self._task.max_losses} workers in a row without a new "
                f"token (--max-worker-losses), the last {load.address}: {reason}"
            )

    def _finish(self, slots: list[int], reasons: list[int], now_ns: int) -> CallTimes:
        """Report complete requests to LoadGen and move them to the finished records."""
        call_times = self._reports.complete(*self.table.reportable(slots))
        self.table.finish(slots, reasons, now_ns)
        if self.table.num_untaken >= MAX_UNTAKEN:
            self.keep_answers()
        return call_times
