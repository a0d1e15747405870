"""The dispatcher thread: one event loop that owns every stream and every report to LoadGen."""

import asyncio
import logging
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import wait
from typing import Any, NamedTuple, TypeVar

import numpy as np

from common.signals import SIGNAL_POLL_S
from coordinator.config import OverduePolicy
from coordinator.scheduling.overdue import Overdue, Watch
from coordinator.scheduling.request_rows import Slots
from coordinator.scheduling.request_table import RequestTable
from coordinator.scheduling.scheduler import MAX_NAMED, Scheduler, Task
from coordinator.transport.access import Access
from coordinator.transport.fleet import Fleet, Patience
from coordinator.transport.stream import BEAT_INTERVAL_S
from coordinator.transport.worker_link import WorkerLink
from protos import worker_pb2 as pb
from protos.columns import PROTOCOL_VERSION, TokenColumns, TokenIds

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 3.0
# What is kept goes to disk this often: a coordinator that is killed takes so many seconds of it along.
LOOKS_PER_FLUSH = 10
_T = TypeVar("_T")


class Deadline(NamedTuple):
    """How old a query may be, and what then."""

    timeout_s: float
    policy: OverduePolicy


class Unfinished(NamedTuple):
    """Requests that were not complete when the run ended."""

    samples: Slots
    """(R,)"""
    counts: Slots
    """(R,) tokens received; 0 of a request that never had a worker."""
    tokens: TokenIds
    """(T,) end to end."""


class EventLoop:
    """The fleet's thread. `submit` is LoadGen's, the blocking methods are main's, the rest is the loop's."""

    def __init__(
        self,
        addresses: tuple[str, ...],
        access: Access,
        patience: Patience,
        deadline: Deadline,
        on_failed: Callable[[str], None],
    ) -> None:
        """Start the thread.

        Args:
            addresses: host:port of each worker.
            access: How to reach them.
            patience: When a worker, or the fleet, counts as lost.
            deadline: When a query is overdue.
            on_failed: Takes the reason when the run cannot go on; called on the dispatcher thread.
        """
        self._deadline = deadline
        self._on_failed = on_failed
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._on_loop_error)
        self._thread = threading.Thread(target=self.loop.run_forever, name="dispatcher", daemon=True)
        self._thread.start()
        self._inbox: deque[tuple[int, list[int], list[int]]] = deque()
        self._awake = False
        self._looker: asyncio.Task[None] | None = None
        self.overdue: list[Overdue] = []
        self.fleet: Fleet = self._call(self._connect(addresses, access, patience))

    @property
    def links(self) -> list[WorkerLink]:
        """All workers."""
        return self.fleet.links

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until every worker is SERVING and check that they agree.

        Raises:
            FleetError: Some are not in time, or differ.

        Thread: main; blocks.
        """
        self._call(self.fleet.wait_ready(timeout_s))

    def open(self, run_id: str, spec: pb.RunSpec, task: Task, flush: Callable[[], None]) -> str:
        """Begin the run on every worker.

        Args:
            run_id: Names the run.
            spec: What every worker must do alike.
            task: What the run asks for.
            flush: Called on the loop each few seconds, to write what was kept.

        Returns:
            The hash of the effective run specification.

        Raises:
            FleetError: A worker refuses, or workers answer with different hashes.

        Thread: main; blocks.
        """
        self.ledger = RequestTable(task.max_new_tokens, first_generation=secrets.randbits(32))
        self.flow = Scheduler(task, self.ledger, self.links, self.fail)
        self._watch = Watch(self.ledger, self._deadline.timeout_s)
        opening = pb.Open(protocol_version=PROTOCOL_VERSION, run_id=run_id, spec=spec)
        return self._call(self._open(opening, flush))

    def submit(self, ids: list[int], samples: list[int]) -> None:
        """Take one query.

        Thread: LoadGen's; appends and wakes the loop.
        """
        self._inbox.append((time.monotonic_ns(), ids, samples))
        if not self._awake:
            self._awake = True
            self.loop.call_soon_threadsafe(self._fan_out)

    def settle(self) -> None:
        """Ask every worker for its final counts.

        Thread: main; blocks, bounded.
        """
        self._call(self.fleet.settle())

    def stop(self) -> Unfinished:
        """End every stream in the middle of the run, so that workers empty their engines, and the thread.

        Thread: main; blocks, bounded.
        """
        unfinished = self._call(self._abandon(), STOP_TIMEOUT_S)
        self.close()
        return unfinished

    def close(self) -> None:
        """End every stream, and the thread.

        Thread: main; blocks, bounded.
        """
        try:
            self._call(self._close(), STOP_TIMEOUT_S)
        except TimeoutError:
            # They end with the process, which is what comes next.
            logger.warning("streams not closed within %g s", STOP_TIMEOUT_S)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=STOP_TIMEOUT_S)

    def deliver(self, link: WorkerLink, columns: TokenColumns) -> None:
        """See Scheduler."""
        self.flow.deliver(link, columns)

    def lose(self, link: WorkerLink, reason: str) -> None:
        """See Scheduler."""
        self.flow.lose(link, reason)

    def refill(self) -> None:
        """Give a worker that came back its part."""
        self.flow.dispatch()

    def fail(self, reason: str) -> None:
        """End the run."""
        self._on_failed(reason)

    def _call(self, work: Coroutine[Any, Any, _T], timeout_s: float | None = None) -> _T:
        """Run a coroutine on the loop and wait for it.

        Raises:
            TimeoutError: It is not done in time.

        Thread: main.
        """
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        deadline_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while not wait([future], SIGNAL_POLL_S).done:
            if time.monotonic() > deadline_s:
                raise TimeoutError
        return future.result()

    async def _connect(self, addresses: tuple[str, ...], access: Access, patience: Patience) -> Fleet:
        return Fleet(addresses, access, patience, self)

    async def _open(self, opening: pb.Open, flush: Callable[[], None]) -> str:
        spec_hash = await self.fleet.open(opening)
        self._looker = asyncio.ensure_future(self._look(flush))
        return spec_hash

    async def _look(self, flush: Callable[[], None]) -> None:
        """Once a second: the fleet as a whole, how fast its workers are, and queries that take too long."""
        num_looks = 0
        try:
            while True:
                await asyncio.sleep(BEAT_INTERVAL_S)
                self.fleet.look()
                self.flow.look(time.monotonic_ns())
                self._look_for_overdue()
                num_looks += 1
                if num_looks % LOOKS_PER_FLUSH == 0:
                    self.flow.keep_answers()
                    flush()
        except Exception as error:
            logger.exception("dispatcher failed")
            self.fail(f"dispatcher: {error!r}")

    def _look_for_overdue(self) -> None:
        now_ns = time.monotonic_ns()
        slots = self._watch.look(now_ns)
        if not len(slots):
            return
        found = self._watch.describe(slots, self.links, now_ns)
        self.overdue += found
        for query in found:
            logger.warning("overdue: %s", query)
        reason = f"{len(found)} queries older than {self._deadline.timeout_s:g} s (--query-timeout-s)"
        if self._deadline.policy is OverduePolicy.FAIL:
            self.fail(f"{reason}: {'; '.join(map(str, found[:MAX_NAMED]))}")
        elif self._deadline.policy is OverduePolicy.CONTINUE:
            workers = self.ledger.rows(slots)["worker"]
            for index in np.unique(workers):
                self.flow.move(self.links[index], slots[workers == index], reason)

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the run for what no task owns: a callback of the loop that raised."""
        error = context.get("exception")
        logger.error("dispatcher failed: %s", context["message"], exc_info=error)
        self.fail(f"dispatcher: {context['message']}: {error!r}")

    async def _abandon(self) -> Unfinished:
        await self.fleet.halt()
        self.flow.keep_answers()
        slots = self.ledger.in_flight()
        counts, tokens = self.ledger.answers(slots)
        _, never_sent, _ = self.flow.backlog.take(len(self.flow.backlog))
        samples = np.concatenate([self.ledger.rows(slots)["sample"], never_sent])
        return Unfinished(samples, np.concatenate([counts, np.zeros_like(never_sent)]), tokens)

    async def _close(self) -> None:
        if self._looker is not None:
            self._looker.cancel()
        await self.fleet.close()

    def _fan_out(self) -> None:
        """Move what LoadGen issued into the flow."""
        self._awake = False
        while self._inbox:
            issued_ns, ids, samples = self._inbox.popleft()
            self.flow.take(ids, samples, issued_ns)
        self.flow.dispatch()
