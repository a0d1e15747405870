"""The way of requests between LoadGen and the workers, out and home; runs on the dispatcher thread alone."""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coordinator.scheduling import routing
from coordinator.scheduling.backlog import Backlog
from coordinator.scheduling.failover import Failover, without
from coordinator.scheduling.request_rows import Slots
from coordinator.scheduling.request_table import RequestTable
from coordinator.scheduling.throughput import relative_speeds
from coordinator.transport.worker_link import WorkerLink
from protos import worker_pb2 as pb
from protos.columns import FrameError, PromptColumns, TokenColumns, TokenIds
from sut.dataset import Dataset
from sut.sut import SUT

logger = logging.getLogger(__name__)

MAX_NAMED = 10
# Finished answers that may wait in the ledger, whose slots they hold, until they are copied together.
MAX_UNTAKEN = 1024
Ints = NDArray[np.int64]
Keep = Callable[[Slots, Slots, TokenIds], None]
"""Takes finished answers: samples (R,), token counts (R,), tokens (T,) end to end."""


class Task(NamedTuple):
    """What a run asks for."""

    dataset: Dataset
    """The prompts."""
    sut: SUT
    """Gets first tokens and completions."""
    max_new_tokens: int
    """Budget of each request."""
    max_losses: int
    """Workers that one request may be taken from; at that many the run fails."""
    keep: Keep
    """Gets every finished answer."""


class Scheduler:
    """Requests that wait, run, continue and end."""

    def __init__(
        self, task: Task, ledger: RequestTable, links: list[WorkerLink], on_failed: Callable[[str], None]
    ) -> None:
        """Start without requests.

        Args:
            task: What the run asks for.
            ledger: Where requests in flight are kept.
            links: All workers; those that are live get requests.
            on_failed: Takes the reason when the run cannot go on.
        """
        self._task = task
        self._sut = task.sut
        self._ledger = ledger
        self._links = links
        self._on_failed = on_failed
        self._backlog = Backlog()
        self.continuations = Failover(ledger, task.dataset, task.max_new_tokens, task.max_losses)
        self._failed = False
        self.num_issued = 0

    @property
    def backlog(self) -> Backlog:
        """Requests that never had a worker."""
        return self._backlog

    def take(self, ids: list[int], samples: list[int], issued_ns: int) -> None:
        """Take one query; `dispatch` sends it."""
        self.num_issued += len(ids)
        self._backlog.add(np.array(ids, np.uint64), np.array(samples, np.int64), issued_ns)

    def dispatch(self) -> None:
        """Send what may go out now; requests that lost their worker go first."""
        if self._failed or (not self._backlog and not self.continuations):
            return
        live = [link for link in self._links if link.live]
        if not live:
            return
        if self._sut.reports_first_tokens:
            self._push(live)
        else:
            self._pull(live)

    def deliver(self, link: WorkerLink, columns: TokenColumns) -> None:
        """Store a frame, tell LoadGen, and refill the worker's window.

        Raises:
            FrameError: The frame does not fit what the worker holds.
        """
        now_ns = time.monotonic_ns()
        if link.moved:
            columns, num_dropped = without(columns, link.moved)
            link.num_dropped_tokens += num_dropped
        if len(columns.tokens) and columns.tokens.view(np.uint32).max() >= link.info.vocab_size:
            raise FrameError(f"a token id outside the vocabulary of {link.info.vocab_size}")
        arrivals = self._ledger.add_tokens(link.index, columns, now_ns)
        link.waiting_prefill_tokens -= arrivals.prefilled_tokens
        if len(arrivals.first_slots) and self._sut.reports_first_tokens:
            slots = arrivals.first_slots
            self._sut.first_tokens(self._ledger.loadgen_ids(slots), self._ledger.addresses(slots))
        if len(arrivals.finished_slots):
            self._finish(arrivals.finished_slots, arrivals.finish_reasons, now_ns)
            link.end(len(arrivals.finished_slots))
            self._refill(link)
        if len(arrivals.first_slots) or len(arrivals.finished_slots):
            link.stream.counts.report_delays_ns.append(time.monotonic_ns() - columns.produced_ns)

    def look(self, now_ns: int) -> None:
        """Measure every worker and divide what waits anew; called each BEAT_INTERVAL_S, never per frame."""
        live = [link for link in self._links if link.live]
        for link in live:
            link.measure(now_ns)
        if self._sut.reports_first_tokens:
            for link, speed in zip(live, relative_speeds([link.pace for link in live]), strict=True):
                link.speed = speed
        elif self._backlog:
            self._divide(live)
            self.dispatch()

    def keep_answers(self) -> None:
        """Hand over the answers that have finished since the last time; a copy of each alone costs more."""
        if self._ledger.num_untaken:
            self._task.keep(*self._ledger.take_answers())

    def lose(self, link: WorkerLink, reason: str) -> None:
        """Let a lost worker's requests go on elsewhere."""
        slots = self._ledger.held_by(link.index)
        self._move(link, slots, reason)
        kept = self.continuations.losses[-1].kept_tokens
        logger.warning(
            "worker %s lost: %s; %d requests go on elsewhere with their %d tokens",
            link.address,
            reason,
            len(slots),
            kept,
        )
        link.waiting_prefill_tokens = 0
        self.dispatch()

    def move(self, link: WorkerLink, slots: Slots, reason: str) -> None:
        """Take requests from a live worker and let them go on elsewhere."""
        names = self._ledger.names(slots)
        link.stream.stop(names)
        link.moved.update(names.tolist())
        link.waiting_prefill_tokens -= int(self._ledger.rows(slots)["prefill_len"].sum())
        self._move(link, slots, reason)
        self.dispatch()

    def _move(self, link: WorkerLink, slots: Slots, reason: str) -> None:
        now_ns = time.monotonic_ns()
        complete = self.continuations.take_from(link, slots, reason, now_ns)
        self._finish(complete, np.full(len(complete), pb.FINISH_REASON_LENGTH, np.uint8), now_ns)
        rows = self._ledger.rows(slots)
        deadly = rows[(rows["losses"] >= self._task.max_losses) & ~np.isin(slots, complete)]
        if len(deadly):
            self._failed = True
            named = ", ".join(map(str, deadly["sample"][:MAX_NAMED]))
            more = f" and {len(deadly) - MAX_NAMED} more" if len(deadly) > MAX_NAMED else ""
            self._on_failed(
                f"sample {named}{more} was taken from {self._task.max_losses} workers in a row "
                f"(--max-worker-losses), the last {link.address}: {reason}"
            )

    def _finish(self, slots: Slots, reasons: NDArray[np.uint8], now_ns: int) -> None:
        if not len(slots):
            return
        counts = self._ledger.token_counts(slots)
        self._sut.complete(self._ledger.loadgen_ids(slots), self._ledger.addresses(slots), counts)
        self._ledger.finish(slots, reasons, now_ns)
        if self._ledger.num_untaken >= MAX_UNTAKEN:
            self.keep_answers()

    def _push(self, live: list[WorkerLink]) -> None:
        """Server: every request goes out at once, to the least loaded worker.

        Those that still queue elsewhere when a worker comes back stay where they are.
        """
        while self.continuations:
            fitting = [link for link in live if self.continuations.next_fits(link)] or live
            self._continue(routing.least_loaded(fitting), 1, alone=fitting is live)
        while self._backlog:
            self._start(routing.least_loaded(live), *self._backlog.take(1))

    def _divide(self, live: list[WorkerLink]) -> None:
        """Offline: say how much of what waits each worker may take, so that all finish together."""
        parts = routing.allowances(
            len(self._backlog),
            np.array([link.info.max_num_seqs for link in live], np.int64),
            np.array([link.pace.full_tokens_per_s for link in live]),
        )
        for link, part in zip(live, parts.tolist(), strict=True):
            link.allowance = part

    def _refill(self, link: WorkerLink) -> None:
        """Use the room that a frame made: others have none, unless requests wait that lost their worker."""
        if self._failed or self.continuations or self._sut.reports_first_tokens:
            self.dispatch()
        elif room := min(max(link.ceiling - link.outstanding, 0), len(self._backlog)):
            self._give(link, *self._backlog.take(room))

    def _pull(self, live: list[WorkerLink]) -> None:
        """Offline: each worker's window is filled, the rest stays here."""
        if self.continuations:
            self._pull_continued(live)
        outstanding = np.array([link.outstanding for link in live])
        ceilings = np.array([link.ceiling for link in live])
        shares = routing.share(outstanding, ceilings, len(self._backlog))
        if not shares.any():
            return
        ids, samples, issued_ns = self._backlog.take(int(shares.sum()))
        workers = routing.deal(shares)
        for index in np.flatnonzero(shares):
            rows = workers == index
            self._give(live[index], ids[rows], samples[rows], issued_ns[rows])

    def _pull_continued(self, live: list[WorkerLink]) -> None:
        """Spread requests that lost their worker: first evenly, then wherever there is room."""
        order = sorted(live, key=lambda link: link.outstanding)
        for most in (-(-len(self.continuations) // len(live)), len(self.continuations)):
            for link in order:
                room = max(link.window - link.outstanding, 0)
                self._continue(link, min(most, room), alone=len(live) == 1)

    def _give(self, link: WorkerLink, ids: NDArray[np.uint64], samples: Ints, issued_ns: Ints) -> None:
        """Give a worker a part of what waits."""
        link.allowance = max(link.allowance - len(ids), 0)
        self._start(link, ids, samples, issued_ns)

    def _start(self, link: WorkerLink, ids: NDArray[np.uint64], samples: Ints, issued_ns: Ints) -> None:
        """Give new requests to a worker."""
        now_ns = time.monotonic_ns()
        lens, tokens = self._task.dataset.gather(samples)
        columns: dict[str, Ints] = {
            "sample": samples,
            "prompt_len": lens.astype(np.int64),
            "issued_ns": issued_ns,
            "sent_ns": np.full(len(ids), now_ns),
        }
        _, names = self._ledger.assign(ids, link.index, columns)
        budgets = np.full(len(ids), self._task.max_new_tokens, np.uint32)
        prompts = PromptColumns(names, lens, tokens, budgets, np.zeros(len(ids), np.uint32))
        self._send(link, prompts, now_ns)

    def _continue(self, link: WorkerLink, num: int, *, alone: bool) -> None:
        """Give up to `num` requests that lost their worker to another one."""
        now_ns = time.monotonic_ns()
        prompts = self.continuations.give(link, num, now_ns, alone=alone)
        if len(prompts.requests):
            self._send(link, prompts, now_ns)

    def _send(self, link: WorkerLink, prompts: PromptColumns, now_ns: int) -> None:
        link.stream.send(prompts)
        link.waiting_prefill_tokens += len(prompts.prompt_tokens)
        link.last_prompt_ns = now_ns
