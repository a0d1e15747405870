"""The workers of a run: wait until they serve, open their streams, handle their loss and readmission."""

import asyncio
import gc
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

from common.connect_errors import diagnose
from common.idle_timer import IdleTimer
from common.open_files import open_file_limit
from common.text import printable
from coordinator.transport.access import Access
from coordinator.transport.agreement import (
    Agreement,
    FleetError,
    check_agreement,
    execution_differences,
    worker_warnings,
)
from coordinator.transport.stream import BEAT_INTERVAL_S, CALL_TIMEOUT_S, Limits, WorkerLost, WorkerRefused
from coordinator.transport.worker_answers import MAX_DETAIL_LEN
from coordinator.transport.worker_link import Probe, Readiness, WorkerLink
from protos import worker_pb2 as pb
from protos.columns import TokenColumns

logger = logging.getLogger(__name__)

PROBE_INTERVAL_S = 0.5
REPORT_INTERVAL_S = 10.0
# 81 files were open with 64 workers (bench/results, soak); a worker that comes back briefly needs three.
OWN_OPEN_FILES, OPEN_FILES_PER_WORKER = 64, 3
REPLICA_IS_NODE = "a node, where a worker is expected"


class Patience(NamedTuple):
    """Timeouts of a run for unresponsive workers; see RunConfig."""

    limits: Limits
    no_worker_s: float
    continues: bool
    """Whether the run continues after the loss of a worker."""


class Receiver(Protocol):
    """Handles a fleet's frames, losses and admissions; methods are called on the event loop's thread."""

    def deliver(self, worker: int, columns: TokenColumns) -> None:
        """Handle a frame of tokens.

        Raises:
            FrameError: The frame does not match the requests on the worker; the worker is then lost.
        """
        ...

    def lose(self, worker: int, reason: str) -> None:
        """Handle the loss of a worker; `reason` is one line."""
        ...

    def admit(self, worker: int) -> None:
        """Handle a worker whose stream has been opened, at the start of the run or after a loss."""
        ...

    def fail(self, reason: str) -> None:
        """End the run."""
        ...


class Fleet:
    """The links to all workers; every method runs on the event loop's thread."""

    def __init__(self, addresses: Sequence[str], access: Access, patience: Patience) -> None:
        """Create links that are not connected yet.

        Args:
            addresses: host:port of each worker, or of each node with several replicas.
            access: Credentials for the connections and the run.
            patience: Timeouts after which a worker, or the fleet, counts as lost.

        Raises:
            FleetError: The limit on open files is too low for so many workers.
        """
        self._access = access
        self.links = self._make_links(addresses)
        """Initially nodes; `wait_ready` replaces them by their replicas."""
        self.patience = patience

    @property
    def live(self) -> list[WorkerLink]:
        """Links that carry requests."""
        return [link for link in self.links if link.live]

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until every worker is SERVING and check that they agree.

        Raises:
            FleetError: A worker is not SERVING in time, cannot be reached with these flags, or differs.
        """
        deadline_s = time.monotonic() + timeout_s
        await self._wait_serving(deadline_s, timeout_s)
        addresses = [address for link in self.links for address in link.replica_addresses]
        if addresses != [link.address for link in self.links]:
            nodes, self.links = self.links, self._make_links(addresses)
            await asyncio.gather(*(node.close() for node in nodes))
            await self._wait_serving(deadline_s, timeout_s)
        for link in self.links:
            if link.info.replicas:
                raise FleetError(f"{link.address}: {REPLICA_IS_NODE}")
        check_agreement(self.links)

    def _make_links(self, addresses: Sequence[str]) -> list[WorkerLink]:
        needed, limit = needed_open_files(len(addresses)), open_file_limit()
        if limit < needed:
            reason = f"{len(addresses)} workers need {needed} open files"
            raise FleetError(f"{reason}, the limit is {limit} (ulimit -n)")
        return [WorkerLink(index, address, self._access) for index, address in enumerate(addresses)]

    async def _wait_serving(self, deadline_s: float, timeout_s: float) -> None:
        """Wait until every link's worker or node is SERVING.

        Raises:
            FleetError: One is not SERVING in time, has failed, or cannot be reached with these flags.
        """
        next_report_s = time.monotonic() + REPORT_INTERVAL_S
        waiting = self.links
        # Printed in the first report only.
        limit = f"up to {timeout_s:g} s (--ready-timeout-s) for "
        while True:
            probes = await asyncio.gather(*(link.probe() for link in waiting))
            pending = [
                (link, probe)
                for link, probe in zip(waiting, probes, strict=True)
                if probe.readiness is not Readiness.SERVING
            ]
            if not pending:
                break
            await self._check_reachable(pending)
            self._check_replicas(pending)
            waiting = [link for link, _ in pending]
            names = ", ".join(f"{link.address} {probe.detail}" for link, probe in pending)
            now_s = time.monotonic()
            if now_s > deadline_s:
                raise FleetError(f"not SERVING after {timeout_s:g} s (--ready-timeout-s): {names}")
            if now_s > next_report_s:
                next_report_s += REPORT_INTERVAL_S
                logger.info("waiting for %s%s", limit, names)
                limit = ""
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def open(self, opening: pb.Open, receiver: Receiver) -> "OpenFleet":
        """Begin the run on every worker.

        Args:
            opening: First message of every stream.
            receiver: Receives frames, losses and admissions from now on.

        Raises:
            FleetError: A worker refuses, or would answer differently than the others.
            WorkerLost: A stream breaks, or a worker does not answer in time.
        """
        agreement = Agreement(opening.spec, self.links[0].address, self.links[0].info)
        try:
            await asyncio.gather(*(link.open(opening, agreement.check_opened) for link in self.links))
        except WorkerRefused as error:
            raise FleetError(str(error)) from error
        served = [(link.address, link.stream.counts.info) for link in self.links]
        for line in execution_differences(served):
            logger.warning("workers may differ in %s", line)
        for line in worker_warnings(served):
            logger.warning("%s", line)
        return OpenFleet(self, opening, agreement, receiver)

    async def close(self) -> None:
        """End every stream and channel."""
        await asyncio.gather(*(link.close() for link in self.links))

    async def explain(self, link: WorkerLink) -> str | None:
        """Return why gRPC cannot connect to a worker; None if waiting may help."""
        return await diagnose(link.address, self._access.client_tls)

    async def _check_reachable(self, pending: Sequence[tuple[WorkerLink, Probe]]) -> None:
        """Stop waiting if a worker answers wrongly, or is unreachable because of the flags of either side.

        Raises:
            FleetError: Names the first such worker and the cause.
        """
        for link, probe in pending:
            if probe.readiness is Readiness.UNFIT:
                raise FleetError(f"{link.address}: {probe.detail}")
        unreachable = [link for link, probe in pending if probe.readiness is Readiness.UNREACHABLE]
        reasons = await asyncio.gather(*map(self.explain, unreachable))
        for link, reason in zip(unreachable, reasons, strict=True):
            if reason is not None:
                raise FleetError(f"{link.address}: {reason}")

    @staticmethod
    def _check_replicas(pending: Sequence[tuple[WorkerLink, Probe]]) -> None:
        """Stop waiting if a node does not restart one of its replicas any more.

        Raises:
            FleetError: Names the first such replica and the cause.
        """
        for link, _ in pending:
            for index, replica in enumerate(link.info.replicas):
                if replica.state == pb.WORKER_STATE_FAILED:
                    raise FleetError(f"{link.address}: replica {index}: {replica.reason}")


def needed_open_files(num_workers: int) -> int:
    """Return how many files a coordinator must be able to open."""
    return OWN_OPEN_FILES + OPEN_FILES_PER_WORKER * num_workers


class OpenFleet:
    """The open streams of one run; reopens a worker's stream after a loss."""

    def __init__(self, fleet: Fleet, opening: pb.Open, agreement: Agreement, receiver: Receiver) -> None:
        """Start reading and writing the open streams of all links.

        Args:
            fleet: Fleet whose links have open streams.
            opening: First message of the stream to a readmitted worker.
            agreement: What a readmitted worker must agree with.
            receiver: Receives frames, losses and admissions.
        """
        self.spec_hash = agreement.spec_hash
        self._agreement = agreement
        self._fleet = fleet
        self._patience = fleet.patience
        self._opening = opening
        self._receiver = receiver
        self._last_reasons: dict[str, str] = {}
        self._without_worker = IdleTimer(BEAT_INTERVAL_S)
        self._settling = False
        for link in fleet.links:
            self._admit(link)
        self._tasks = [asyncio.ensure_future(self._serve(link)) for link in fleet.links]

    def beat(self, outstanding: Sequence[int]) -> None:
        """Check every stream, and the time without any worker; called once per BEAT_INTERVAL_S.

        Args:
            outstanding: Number of requests on each worker of the fleet.
        """
        for link in self._fleet.live:
            link.stream.beat(self._patience.limits, outstanding[link.index])
            self._without_worker.mark_active()
        self._without_worker.tick()
        if self._without_worker.idle_s > self._patience.no_worker_s:
            losses = "; ".join(f"{address}: {reason}" for address, reason in self._last_reasons.items())
            self._receiver.fail(
                f"no worker for {self._patience.no_worker_s:g} s (--no-worker-timeout-s): {losses}"
            )

    async def settle(self) -> None:
        """Request the final counts of every live worker; lost workers are not readmitted any more.

        Each worker answers or is lost within the silence limit plus CALL_TIMEOUT_S.
        """
        self._settling = True
        served = list(zip(self._fleet.links, self._tasks, strict=True))
        for link, serving in served:
            if not link.live:
                serving.cancel()
        await asyncio.gather(*(self._settle(link, serving) for link, serving in served if link.live))

    async def halt(self) -> None:
        """Stop reading and writing all streams."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _settle(self, link: WorkerLink, serving: asyncio.Task[None]) -> None:
        """Request the final counts of one worker; returns when it has answered or is lost."""
        patience_s = self._patience.limits.silence_s + CALL_TIMEOUT_S
        asking = asyncio.ensure_future(link.stream.settle(patience_s))
        await asyncio.wait({asking, serving}, return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            asking.result()
        asking.cancel()

    async def _serve(self, link: WorkerLink) -> None:
        """Serve a link for the whole run: run its stream, and readmit the worker after each loss."""
        try:
            while True:
                await self._carry(link)
                if self._settling:
                    return
                await link.reconnect()
                await self._readmit(link)
                # An ended stream leaves a reference cycle of tracebacks, tasks and gRPC's channel (200 KiB),
                # and a run does not trigger collections. This one is fast, because older objects are frozen.
                gc.collect()
        except Exception as error:
            logger.exception("event loop failed")
            self._receiver.fail(f"event loop: {error!r}")

    async def _carry(self, link: WorkerLink) -> None:
        """Run a stream until the worker is lost."""
        try:
            await link.stream.carry(partial(self._receiver.deliver, link.index))
        except WorkerLost as loss:
            link.lose()
            self._last_reasons[link.address] = loss.reason
            if not self._patience.continues:
                self._receiver.fail(f"{loss} (--on-worker-loss fail)")
            self._receiver.lose(link.index, loss.reason)

    async def _readmit(self, link: WorkerLink) -> None:
        """Readmit a worker after the same checks as at the start."""
        reported = ""
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            obstacle = await self._try(link)
            if not obstacle:
                break
            if obstacle != reported:
                logger.info("worker %s is not back: %s", link.address, obstacle)
                reported = obstacle
        logger.info("worker %s is back: process %d", link.address, link.info.pid)
        self._admit(link)

    def _admit(self, link: WorkerLink) -> None:
        link.begin()
        self._receiver.admit(link.index)

    async def _try(self, link: WorkerLink) -> str:
        """Try to open a stream to a lost worker; returns what prevents it, or an empty string."""
        try:
            return await self._reopen(link)
        except (FleetError, WorkerLost) as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - no answer of one address may end the run
            return printable(repr(error), MAX_DETAIL_LEN)

    async def _reopen(self, link: WorkerLink) -> str:
        """Check a lost worker as at the start, and open a stream to it.

        Returns:
            What prevents it, or an empty string.

        Raises:
            FleetError: The worker would answer differently than the others.
            WorkerLost: The worker refuses the run.
        """
        probe = await link.probe()
        if probe.readiness is Readiness.UNREACHABLE:
            return await self._fleet.explain(link) or probe.detail
        if probe.readiness is not Readiness.SERVING:
            return probe.detail
        if link.info.replicas:
            return REPLICA_IS_NODE
        others = [other for other in self._fleet.live if other is not link]
        check_agreement([link, *others])
        self._agreement.check_info(link.address, link.info)
        await link.open(self._opening, self._agreement.check_opened)
        return ""
