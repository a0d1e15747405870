"""The event loop's thread: runs every stream and makes all reports to LoadGen."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import wait
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np

from common.idle_timer import IdleTimer
from common.signals import SIGNAL_POLL_S
from coordinator.config import OverduePolicy
from coordinator.scheduling.overdue import Overdue, OverdueDetector
from coordinator.scheduling.scheduler import MAX_NAMED, Scheduler, Task, Unfinished
from coordinator.transport.access import Access
from coordinator.transport.fleet import Fleet, OpenFleet, Patience
from coordinator.transport.stream import BEAT_INTERVAL_S, WorkerLost
from coordinator.transport.worker_link import WorkerLink
from protos import worker_pb2 as pb
from protos.columns import PROTOCOL_VERSION

logger = logging.getLogger(__name__)

STOP_TIMEOUT_S = 3.0
NODES_TIMEOUT_S = 20.0
# Dispatch and delivery of the largest run take the loop for seconds at a time.
TURN_TIMEOUT_S = 120.0
# Interval, in beats, at which finished answers are written to disk; limits what a killed coordinator loses.
BEATS_PER_FLUSH = 2
OnFailed = Callable[[str], None]
_T = TypeVar("_T")


class EventLoopHung(RuntimeError):
    """The loop's thread runs nothing any more."""


class Deadline(NamedTuple):
    """Age at which a query is overdue, and the policy for overdue queries."""

    timeout_s: float
    policy: OverduePolicy


class EventLoop:
    """A thread that runs an asyncio loop and the fleet; a context manager that stops both.

    The main thread calls the public methods; they block, for a bounded time.
    """

    def __init__(
        self, addresses: Sequence[str], access: Access, patience: Patience, on_failed: OnFailed
    ) -> None:
        """Start the thread.

        Args:
            addresses: host:port of each worker.
            access: Credentials for the connections and the run.
            patience: Timeouts after which a worker, or the fleet, counts as lost.
            on_failed: Called on the loop's thread with the reason when the run cannot continue.
        """
        self.loop = asyncio.new_event_loop()
        self._on_failed = on_failed
        self.loop.set_exception_handler(self._on_loop_error)
        self._thread = threading.Thread(target=self.loop.run_forever, name="event loop", daemon=True)
        self._thread.start()
        try:
            self.fleet = self.call(_connect(addresses, access, patience))
        except BaseException:
            self._stop_thread()
            raise

    def __enter__(self) -> "EventLoop":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def links(self) -> list[WorkerLink]:
        """All workers."""
        return self.fleet.links

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until every worker is SERVING and check that they agree.

        Raises:
            FleetError: A worker is not SERVING in time, or workers differ.

        Thread: main; blocks.
        """
        self.call(self.fleet.wait_ready(timeout_s))

    def ask_nodes(self) -> list[str]:
        """Ask the Network SUT for the names of its nodes, each of which it asks; empty if it does not answer.

        Thread: any but the loop's; blocks, bounded.
        """
        try:
            host = self.call(self.links[0].ask_host(NODES_TIMEOUT_S), NODES_TIMEOUT_S)
            return list(host.nodes)
        except (TimeoutError, WorkerLost) as error:
            logger.error("%s: %s", self.links[0].address, error)
            return []

    def open(
        self, opening: pb.Open, task: Task, deadline: Deadline, flush: Callable[[], None]
    ) -> "ActiveRun":
        """Begin a run on every worker.

        Args:
            opening: The run's id and specification; see `opening_of`.
            task: Inputs and callbacks of the run.
            deadline: When a query is overdue.
            flush: Called on the loop every few seconds; writes received answers.

        Raises:
            FleetError: A worker refuses, or workers return different hashes.
            WorkerLost: The connection to a worker breaks.

        Thread: main; blocks.
        """
        return self.call(self._open(opening, task, deadline, flush))

    def call(self, work: Coroutine[Any, Any, _T], timeout_s: float | None = None) -> _T:
        """Run a coroutine on the loop and wait for it: up to a timeout, or as long as the loop turns.

        Time during which this process is suspended does not count: the loop cannot run it then.

        Raises:
            TimeoutError: It does not return in time.
            EventLoopHung: The loop has made no turn for TURN_TIMEOUT_S.

        Thread: main; blocks.
        """
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        timer, since_turn = IdleTimer(SIGNAL_POLL_S), IdleTimer(SIGNAL_POLL_S)
        turned = threading.Event()
        turned.set()
        while not wait([future], SIGNAL_POLL_S).done:
            timer.tick()
            since_turn.tick()
            if timeout_s is not None and timer.idle_s > timeout_s:
                raise TimeoutError
            if turned.is_set():
                since_turn.mark_active()
                turned.clear()
                self.loop.call_soon_threadsafe(turned.set)
            if since_turn.idle_s > TURN_TIMEOUT_S:
                raise EventLoopHung(f"the event loop has made no turn for {TURN_TIMEOUT_S:g} s")
        return future.result()

    def close(self) -> None:
        """Close every stream and stop the thread.

        Thread: main; blocks, bounded.
        """
        if not self._thread.is_alive():
            return
        try:
            self.call(self.fleet.close(), STOP_TIMEOUT_S)
        except TimeoutError:
            # The streams end with the process.
            logger.warning("streams not closed within %g s", STOP_TIMEOUT_S)
        self._stop_thread()

    def _stop_thread(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=STOP_TIMEOUT_S)

    async def _open(
        self, opening: pb.Open, task: Task, deadline: Deadline, flush: Callable[[], None]
    ) -> "ActiveRun":
        scheduler = Scheduler(task, self.fleet.links, self._on_failed, self.loop)
        streams = await self.fleet.open(opening, scheduler)
        return ActiveRun(self, scheduler, streams, deadline, flush)

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the run after an exception in a callback of the loop, which no task would report."""
        error = context.get("exception")
        logger.error("event loop failed: %s", context["message"], exc_info=error)
        self._on_failed(f"event loop: {context['message']}: {error!r}")


class ActiveRun:
    """A run that is open on every worker: methods for the main thread, and the once-per-second checks."""

    def __init__(
        self,
        event_loop: EventLoop,
        scheduler: Scheduler,
        streams: OpenFleet,
        deadline: Deadline,
        flush: Callable[[], None],
    ) -> None:
        """Start the checks.

        Args:
            event_loop: The loop that the run uses; this object is created on its thread.
            scheduler: The run's requests.
            streams: The run's streams.
            deadline: When a query is overdue.
            flush: Called every few seconds; writes received answers.
        """
        self.fleet = event_loop.fleet
        self.scheduler = scheduler
        self.spec_hash = streams.spec_hash
        self.overdue: list[Overdue] = []
        """Overdue queries, in the order in which they were found."""
        self._event_loop = event_loop
        self._streams = streams
        self._deadline = deadline
        self._flush = flush
        self._detector = OverdueDetector(scheduler.table, deadline.timeout_s)
        self._beating = asyncio.ensure_future(self._beat())

    def settle(self) -> None:
        """Ask every worker for its final counts, and count the last answers.

        Thread: main; blocks, bounded.
        """
        self._event_loop.call(self._settle())

    def end(self) -> None:
        """Stop the checks and stop reading all streams.

        Thread: main; blocks, bounded.

        Raises:
            TimeoutError: The loop does not respond.
        """
        self._event_loop.call(self._halt(), STOP_TIMEOUT_S)

    def abandon(self) -> Unfinished:
        """Stop the run before its requests are complete; returns the unfinished ones.

        Thread: main; blocks, bounded.

        Raises:
            TimeoutError: The loop does not respond.
        """
        return self._event_loop.call(self._abandon(), STOP_TIMEOUT_S)

    async def _settle(self) -> None:
        await self._streams.settle()
        self.scheduler.keep_answers()

    async def _halt(self) -> None:
        self._beating.cancel()
        await self._streams.halt()

    async def _abandon(self) -> Unfinished:
        await self._halt()
        return self.scheduler.abandon()

    async def _beat(self) -> None:
        """Check once per second for silent workers and overdue queries, and measure throughput."""
        num_beats = 0
        try:
            while True:
                await asyncio.sleep(BEAT_INTERVAL_S)
                self._streams.beat(self.scheduler.outstanding)
                self.scheduler.beat(time.monotonic_ns())
                self._check_overdue(time.monotonic_ns())
                num_beats += 1
                if num_beats % BEATS_PER_FLUSH == 0:
                    self.scheduler.keep_answers()
                    self._flush()
        except Exception as error:
            logger.exception("event loop failed")
            self.scheduler.fail(f"event loop: {error!r}")

    def _check_overdue(self, now_ns: int) -> None:
        slots = self._detector.find(now_ns)
        if not len(slots):
            return
        found = self._detector.describe(slots, [link.address for link in self.fleet.links], now_ns)
        self.overdue += found
        for query in found:
            logger.warning("overdue: %s", query)
        reason = f"{len(found)} queries older than {self._deadline.timeout_s:g} s (--query-timeout-s)"
        if self._deadline.policy is OverduePolicy.FAIL:
            self.scheduler.fail(f"{reason}: {'; '.join(map(str, found[:MAX_NAMED]))}")
        elif self._deadline.policy is OverduePolicy.CONTINUE:
            workers = self.scheduler.table.rows(slots)["worker"]
            for worker in np.unique(workers).tolist():
                self.scheduler.move(worker, slots[workers == worker], reason)


async def _connect(addresses: Sequence[str], access: Access, patience: Patience) -> Fleet:
    """Create the fleet on the loop, because gRPC binds a channel to the running loop."""
    return Fleet(addresses, access, patience)


def network_name(nodes: Sequence[str]) -> str:
    """Compose the name of a Network SUT.

    Source: inference_rules.adoc: it contains "Network SUT" and a unique name for each node.
    """
    return f"Network SUT: {', '.join(dict.fromkeys(nodes))}"


def opening_of(run_id: str, spec: pb.RunSpec) -> pb.Open:
    """Compose the first message of every stream of a run."""
    return pb.Open(protocol_version=PROTOCOL_VERSION, run_id=run_id, spec=spec)
