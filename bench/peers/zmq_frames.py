"""The product's frames and its ledger, with ZMQ in gRPC's place: what the transport alone could save.

A frame per engine step. Left out, beside gRPC: whatever notices that a worker is lost, slow or another one,
the pacing of Offline, and the record of finished answers on disk.
"""

import secrets
import time
from functools import partial

import numpy as np
from coordinator.scheduling.request_rows import Slots
from numpy.typing import NDArray

from bench.peers.driver import die_on_loop_errors
from bench.peers.zmq_driver import ZmqDriver
from bench.peers.zmq_sockets import Door, WorkerLink
from coordinator.config import RunConfig
from coordinator.scheduling.request_table import RequestTable
from coordinator.scheduling.scheduler import MAX_UNTAKEN
from protos import worker_pb2 as pb
from protos.columns import PromptColumns, pack_submit, unpack_submit, unpack_tokens
from sut.dataset import Dataset
from worker.engines.scripted.counting import CountingEngine
from worker.outbox import Outbox


async def serve(engine: CountingEngine, port: int) -> None:
    """Serve for ever."""
    die_on_loop_errors()
    await _Worker(engine, port).pump()


class _Worker:
    """The worker's end of it: the product's engine and outbox."""

    def __init__(self, engine: CountingEngine, port: int) -> None:
        self._engine = engine
        self._outbox = Outbox(hold_ns=0)
        self._door = Door(port, self._open, self._submit)

    async def pump(self) -> None:
        """Run the engine for ever."""
        await self._engine.start()
        while True:
            step = await self._engine.step()
            # Another driver may have come meanwhile, and a new outbox with it.
            self._outbox.put(step)
            message = await self._outbox.next()
            self._door.send(message.tokens.SerializeToString())
            await self._door.room()

    def _open(self) -> None:
        """Count frames anew."""
        self._outbox = Outbox(hold_ns=0)

    def _submit(self, body: bytes) -> None:
        self._engine.submit(unpack_submit(pb.Submit.FromString(body)))


class FrameDriver(ZmqDriver):
    """The coordinator's end of it: the product's ledger; all but `_issue` runs on the event loop."""

    def __init__(self, config: RunConfig, data: Dataset, max_new_tokens: int) -> None:
        """See ZmqDriver."""
        super().__init__(config, data, max_new_tokens)
        self._ledger = RequestTable(max_new_tokens, first_generation=secrets.randbits(32))
        self._num_frames = [0] * len(config.workers)
        self._next_worker = 0

    @property
    def num_requests(self) -> int:
        """Requests in flight."""
        return self._ledger.num_running

    async def connect(self) -> None:
        """Tell every worker where its frames go."""
        self._links = [
            WorkerLink(address, partial(self._take, worker)) for worker, address in enumerate(self._addresses)
        ]

    def _start(self, ids: list[int], samples: list[int]) -> None:
        """Deal requests like cards."""
        issued_ns = time.monotonic_ns()
        names, rows = np.array(ids, np.uint64), np.array(samples, np.int64)
        num_workers = len(self._links)
        for turn in range(min(num_workers, len(ids))):
            worker = (self._next_worker + turn) % num_workers
            self._give(worker, names[turn::num_workers], rows[turn::num_workers], issued_ns)
        self._next_worker = (self._next_worker + len(ids)) % num_workers

    def _give(self, worker: int, ids: NDArray[np.uint64], samples: Slots, issued_ns: int) -> None:
        lens, tokens = self._data.gather(samples)
        now_ns = np.full(len(ids), issued_ns)
        columns = {
            "sample": samples,
            "prompt_len": lens.astype(np.int64),
            "issued_ns": now_ns,
            "sent_ns": now_ns,
        }
        _, requests = self._ledger.assign(ids, worker, columns)
        budgets = np.full(len(ids), self._budget, np.uint32)
        prompts = PromptColumns(requests, lens, tokens, budgets, np.zeros(len(ids), np.uint32))
        self._links[worker].send(pack_submit(prompts).SerializeToString())

    def _take(self, worker: int, body: bytes) -> None:
        """Do what coordinator.scheduling.scheduler does with a frame."""
        now_ns = time.monotonic_ns()
        columns = unpack_tokens(pb.Tokens.FromString(body), sequence=self._num_frames[worker])
        self._num_frames[worker] += 1
        arrivals = self._ledger.add_tokens(worker, columns, now_ns)
        if len(arrivals.first_slots) and self.sut.reports_first_tokens:
            slots = arrivals.first_slots
            self.sut.first_tokens(self._ledger.loadgen_ids(slots), self._ledger.addresses(slots))
        if len(arrivals.finished_slots):
            slots = arrivals.finished_slots
            counts = self._ledger.token_counts(slots)
            self.sut.complete(self._ledger.loadgen_ids(slots), self._ledger.addresses(slots), counts)
            self._ledger.finish(slots, arrivals.finish_reasons, now_ns)
            if self._ledger.num_untaken >= MAX_UNTAKEN:
                self._ledger.take_answers()
        if len(arrivals.first_slots) or len(arrivals.finished_slots):
            self.report_delays_ns.append(time.monotonic_ns() - columns.produced_ns)
