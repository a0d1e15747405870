"""The dispatcher thread: one event loop that owns every stream and every report to LoadGen."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from coordinator import routing
from coordinator.access import Access
from coordinator.agreement import FleetError, check_agreement, check_equal
from coordinator.backlog import Backlog
from coordinator.doorstep import diagnose
from coordinator.ledger import Arrivals, Ledger
from coordinator.link import Link, WorkerLost
from protos import worker_pb2 as pb
from protos.frames import PROTOCOL_VERSION, PromptColumns, TokenColumns
from sut.dataset import Dataset
from sut.sut import SUT

logger = logging.getLogger(__name__)

PROBE_INTERVAL_S = 0.5
REPORT_INTERVAL_S = 10.0
_T = TypeVar("_T")
Ints = NDArray[np.int64]
OnLost = Callable[[str], None]


class Limits(NamedTuple):
    """When a worker counts as lost; see RunConfig."""

    silence_s: float
    stall_s: float


class Dispatcher:
    """The fleet. `submit` is LoadGen's, the blocking methods are main's, the rest runs on the loop."""

    def __init__(self, addresses: tuple[str, ...], access: Access, limits: Limits, on_lost: OnLost) -> None:
        """Start the thread.

        Args:
            addresses: host:port of each worker.
            access: How to reach them.
            limits: When a worker counts as lost.
            on_lost: Takes the reason when the run cannot go on; called once, on the dispatcher thread.
        """
        self._access = access
        self._limits = limits
        self._on_lost = on_lost
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._on_loop_error)
        self._thread = threading.Thread(target=self._loop.run_forever, name="dispatcher", daemon=True)
        self._thread.start()
        self._inbox: deque[tuple[int, list[int], list[int]]] = deque()
        self._awake = False
        self._backlog = Backlog()
        self._running: list[asyncio.Task[None]] = []
        self.num_issued = 0
        self.links: list[Link] = self.call(self._connect(addresses))

    def call(self, work: Coroutine[Any, Any, _T], timeout_s: float | None = None) -> _T:
        """Run a coroutine on the loop and wait for it.

        Thread: main.
        """
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until every worker is SERVING and check that they agree.

        Raises:
            FleetError: Some are not in time, or differ.

        Thread: main; blocks.
        """
        self.call(self._wait_ready(timeout_s))
        check_agreement(self.links)

    def open(self, run_id: str, spec: pb.RunSpec, dataset: Dataset, sut: SUT, block_len: int) -> str:
        """Begin the run on every worker.

        Args:
            run_id: Names the run.
            spec: What every worker must do alike.
            dataset: The prompts.
            sut: Gets first tokens and completions.
            block_len: Samples of one data-set copy in an Offline query.

        Returns:
            The hash of the effective run specification.

        Raises:
            FleetError: A worker refuses, or workers answer with different hashes.

        Thread: main; blocks.
        """
        self._spec = spec
        self._dataset = dataset
        self._sut = sut
        self._block_len = block_len
        self.ledger = Ledger(spec.max_new_tokens)
        self._prompt_lens = dataset.prompt_lens
        opening = pb.Open(protocol_version=PROTOCOL_VERSION, run_id=run_id, spec=spec)
        return self.call(self._open(opening))

    def submit(self, ids: list[int], samples: list[int]) -> None:
        """Take one query.

        Thread: LoadGen's; appends and wakes the loop.
        """
        self._inbox.append((time.monotonic_ns(), ids, samples))
        if not self._awake:
            self._awake = True
            self._loop.call_soon_threadsafe(self._fan_out)

    def settle(self) -> list[pb.Pong]:
        """Ask every worker for its final counts.

        Thread: main; blocks, bounded.
        """
        return self.call(self._settle())

    def close(self) -> None:
        """End every stream, and the thread.

        Thread: main; blocks, bounded.
        """
        self.call(self._close(), timeout_s=10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5.0)

    async def _connect(self, addresses: tuple[str, ...]) -> list[Link]:
        return [Link(index, address, self._access) for index, address in enumerate(addresses)]

    async def _wait_ready(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        next_report_s = time.monotonic() + REPORT_INTERVAL_S
        waiting = self.links
        while True:
            states = await asyncio.gather(*(link.probe() for link in waiting))
            pending = [(k, s) for k, s in zip(waiting, states, strict=True) if s != "SERVING"]
            if not pending:
                return
            unreachable = [link.address for link, state in pending if state.startswith("unreachable")]
            whys = await asyncio.gather(*(diagnose(address, self._access) for address in unreachable))
            for address, why in zip(unreachable, whys, strict=True):
                if why is not None:
                    raise FleetError(f"--workers: {address}: {why}")
            waiting = [link for link, _ in pending]
            names = ", ".join(f"{link.address} {state}" for link, state in pending)
            now_s = time.monotonic()
            if now_s > deadline_s:
                raise FleetError(f"--workers: not SERVING after {timeout_s:g} s (--ready-timeout-s): {names}")
            if now_s > next_report_s:
                next_report_s += REPORT_INTERVAL_S
                logger.info("waiting for %s", names)
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def _open(self, opening: pb.Open) -> str:
        try:
            answers = await asyncio.gather(*(link.open(opening) for link in self.links))
        except WorkerLost as error:
            raise FleetError(f"--workers: {error}") from error
        hashes = [answer.spec_hash for answer in answers]
        check_equal("run specification", self.links, hashes)
        self._running = [asyncio.ensure_future(self._carry(link)) for link in self.links]
        return hashes[0]

    async def _carry(self, link: Link) -> None:
        """Own a link for the run: whatever ends it ends the run."""
        try:
            await link.run(self._deliver, self._limits.silence_s, self._limits.stall_s)
        except WorkerLost as error:
            self._on_lost(str(error))
        except Exception as error:
            logger.exception("dispatcher failed")
            self._on_lost(f"dispatcher: {error!r}")

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """End the run for what no task owns: a callback of the loop that raised."""
        error = context.get("exception")
        logger.error("dispatcher failed: %s", context["message"], exc_info=error)
        self._on_lost(f"dispatcher: {context['message']}: {error!r}")

    async def _settle(self) -> list[pb.Pong]:
        return await asyncio.gather(*(link.ask() for link in self.links))

    async def _close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in self.links))

    def _fan_out(self) -> None:
        """Move what LoadGen issued into the backlog and dispatch."""
        self._awake = False
        while self._inbox:
            issued_ns, ids, samples = self._inbox.popleft()
            self.num_issued += len(ids)
            names, rows = np.array(ids, np.uint64), np.array(samples, np.int64)
            if not self._sut.reports_first_tokens:
                order = routing.offline_order(self._prompt_lens[rows], self._block_len)
                names, rows = names[order], rows[order]
            self._backlog.add(names, rows, issued_ns)
        self._dispatch()

    def _dispatch(self) -> None:
        if self._sut.reports_first_tokens:
            self._push()
        else:
            self._pull()

    def _push(self) -> None:
        """Server: every request goes out at once, to the least loaded worker."""
        while len(self._backlog):
            link = self.links[routing.least_loaded([k.load for k in self.links])]
            self._send(link, *self._backlog.take(1))

    def _pull(self) -> None:
        """Offline: each worker's window is filled, the rest stays here."""
        outstanding = np.array([link.outstanding for link in self.links])
        windows = np.array([routing.window(link.info.max_num_seqs) for link in self.links])
        shares = routing.share(outstanding, windows, len(self._backlog))
        if not shares.any():
            return
        ids, samples, issued_ns = self._backlog.take(int(shares.sum()))
        workers = routing.deal(shares)
        for index in np.flatnonzero(shares):
            rows = workers == index
            self._send(self.links[index], ids[rows], samples[rows], issued_ns[rows])

    def _send(self, link: Link, ids: NDArray[np.uint64], samples: Ints, issued_ns: Ints) -> None:
        now_ns = time.monotonic_ns()
        lens, tokens = self._dataset.gather(samples)
        sent_ns = np.full(len(ids), now_ns)
        columns: dict[str, Ints] = {
            "sample": samples,
            "prompt_len": lens.astype(np.int64),
            "issued_ns": issued_ns,
            "sent_ns": sent_ns,
        }
        _, names = self.ledger.assign(ids, link.index, columns)
        budgets = np.full(len(ids), self._spec.max_new_tokens, np.uint32)
        link.send(PromptColumns(names, lens, tokens, budgets, np.zeros(len(ids), np.uint32)))
        link.outstanding += len(ids)
        link.waiting_prefill_tokens += len(tokens)
        link.last_prompt_ns = now_ns

    def _deliver(self, link: Link, columns: TokenColumns) -> None:
        """Store a frame, tell LoadGen, and refill the worker's window."""
        now_ns = time.monotonic_ns()
        arrivals = self.ledger.add_tokens(link.index, columns, now_ns)
        if len(arrivals.first_slots):
            self._report_first(link, arrivals)
        if len(arrivals.finished_slots):
            self._report_finished(link, arrivals, now_ns)
        if len(arrivals.first_slots) or len(arrivals.finished_slots):
            link.report_delays_ns.append(time.monotonic_ns() - columns.produced_ns)

    def _report_first(self, link: Link, arrivals: Arrivals) -> None:
        slots = arrivals.first_slots
        link.waiting_prefill_tokens -= self.ledger.sum_prompt_lens(slots)
        if self._sut.reports_first_tokens:
            self._sut.first_tokens(self.ledger.loadgen_ids(slots), self.ledger.addresses(slots))

    def _report_finished(self, link: Link, arrivals: Arrivals, now_ns: int) -> None:
        slots = arrivals.finished_slots
        counts = self.ledger.token_counts(slots)
        self._sut.complete(self.ledger.loadgen_ids(slots), self.ledger.addresses(slots), counts)
        empty = slots[np.array(counts) == 0]
        link.waiting_prefill_tokens -= self.ledger.sum_prompt_lens(empty)
        link.outstanding -= len(slots)
        self.ledger.finish(slots, arrivals.finish_reasons, now_ns)
        if len(self._backlog):
            self._dispatch()
