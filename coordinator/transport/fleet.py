"""The workers of a run: ready, opened, lost, taken back; what that means for requests is the dispatcher's."""

import asyncio
import gc
import logging
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from common.idle_timer import IdleTimer
from coordinator.transport.access import Access
from coordinator.transport.agreement import FleetError, check_agreement, check_equal
from coordinator.transport.connect_errors import diagnose
from coordinator.transport.stream import BEAT_INTERVAL_S, CALL_TIMEOUT_S, Limits, WorkerLost
from coordinator.transport.worker_link import UNREACHABLE, WorkerLink
from protos import worker_pb2 as pb
from protos.columns import TokenColumns

logger = logging.getLogger(__name__)

PROBE_INTERVAL_S = 0.5
REPORT_INTERVAL_S = 10.0


class Patience(NamedTuple):
    """How long to go on with workers that do not do their part; see RunConfig."""

    limits: Limits
    no_worker_s: float
    continues: bool
    """Whether the run survives the loss of a worker."""


class Owner(Protocol):
    """What a fleet tells of; every method is called on the dispatcher's event loop."""

    def deliver(self, link: WorkerLink, columns: TokenColumns) -> None:
        """Take a frame of tokens.

        Raises:
            FrameError: The frame does not fit what the worker holds; the worker is lost.
        """
        ...

    def lose(self, link: WorkerLink, reason: str) -> None:
        """Take a worker's requests back; `reason` is one line."""
        ...

    def refill(self) -> None:
        """Use a worker that came back."""
        ...

    def fail(self, reason: str) -> None:
        """End the run."""
        ...


class Fleet:
    """All links; every method runs on the dispatcher's event loop."""

    def __init__(self, addresses: tuple[str, ...], access: Access, patience: Patience, owner: Owner) -> None:
        """Create links that are not connected yet.

        Args:
            addresses: host:port of each worker, or node of several.
            access: How to reach them.
            patience: When a worker, or the fleet, counts as lost.
            owner: Takes tokens and news.
        """
        self._access = access
        self.links = self._make_links(addresses)
        """Nodes, until `wait_ready` knows the replicas in their place."""
        self._patience = patience
        self._owner = owner
        self._opening = pb.Open()
        self._spec_hash = ""
        self._last_words: dict[str, str] = {}
        self._deserted = IdleTimer(BEAT_INTERVAL_S)
        self._settling = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def live(self) -> list[WorkerLink]:
        """Links that carry requests."""
        return [link for link in self.links if link.live]

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until every worker is SERVING and check that they agree.

        Raises:
            FleetError: Some are not in time, differ, or cannot be talked to the way that was asked for.
        """
        deadline_s = time.monotonic() + timeout_s
        await self._wait_serving(deadline_s, timeout_s)
        addresses = [address for link in self.links for address in link.replica_addresses]
        if addresses != [link.address for link in self.links]:
            nodes, self.links = self.links, self._make_links(addresses)
            await asyncio.gather(*(node.close() for node in nodes))
            await self._wait_serving(deadline_s, timeout_s)
        check_agreement(self.links)

    def _make_links(self, addresses: Sequence[str]) -> list[WorkerLink]:
        return [WorkerLink(index, address, self._access) for index, address in enumerate(addresses)]

    async def _wait_serving(self, deadline_s: float, timeout_s: float) -> None:
        """Wait until something SERVING is behind every link.

        Raises:
            FleetError: Some are not in time, cannot be, or cannot be talked to the way that was asked for.
        """
        next_report_s = time.monotonic() + REPORT_INTERVAL_S
        waiting = self.links
        # Said once.
        limit = f"up to {timeout_s:g} s (--ready-timeout-s) for "
        while True:
            states = await asyncio.gather(*(link.probe() for link in waiting))
            pending = [(k, s) for k, s in zip(waiting, states, strict=True) if s != "SERVING"]
            if not pending:
                break
            await self._refuse_hopeless([link for link, state in pending if state.startswith(UNREACHABLE)])
            self._refuse_given_up([link for link, _ in pending])
            waiting = [link for link, _ in pending]
            names = ", ".join(f"{link.address} {state}" for link, state in pending)
            now_s = time.monotonic()
            if now_s > deadline_s:
                raise FleetError(f"--workers: not SERVING after {timeout_s:g} s (--ready-timeout-s): {names}")
            if now_s > next_report_s:
                next_report_s += REPORT_INTERVAL_S
                logger.info("waiting for %s%s", limit, names)
                limit = ""
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def open(self, opening: pb.Open) -> str:
        """Begin the run on every worker.

        Returns:
            The hash of the effective run specification.

        Raises:
            FleetError: A worker refuses, or workers answer with different hashes.
        """
        try:
            answers = await asyncio.gather(*(link.open(opening) for link in self.links))
        except WorkerLost as error:
            raise FleetError(f"--workers: {error}") from error
        hashes = [answer.spec_hash for answer in answers]
        check_equal("run specification", self.links, hashes)
        self._opening, self._spec_hash = opening, hashes[0]
        for link in self.links:
            link.live = True
        self._tasks = [asyncio.ensure_future(self._serve(link)) for link in self.links]
        return self._spec_hash

    def look(self) -> None:
        """Ping every worker, and count the time without any; called each BEAT_INTERVAL_S."""
        for link in self.live:
            link.stream.beat(self._patience.limits)
            self._deserted.hear()
        self._deserted.tick()
        if self._deserted.quiet_s > self._patience.no_worker_s:
            words = "; ".join(f"{address}: {reason}" for address, reason in self._last_words.items())
            self._owner.fail(
                f"no worker for {self._patience.no_worker_s:g} s (--no-worker-timeout-s): {words}"
            )

    async def settle(self) -> None:
        """Ask every live worker for its final counts; whoever is not there is not taken back any more.

        Each tells them or is lost: bounded by how long a worker may be silent.
        """
        self._settling = True
        served = list(zip(self.links, self._tasks, strict=True))
        for link, serving in served:
            if not link.live:
                serving.cancel()
        await asyncio.gather(*(self._settle(link, serving) for link, serving in served if link.live))

    async def halt(self) -> None:
        """Take nothing more from any stream."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """End every stream."""
        await self.halt()
        await asyncio.gather(*(link.close() for link in self.links))

    async def _refuse_hopeless(self, unreachable: list[WorkerLink]) -> None:
        """Do not wait for workers that only another flag would reach.

        Raises:
            FleetError: Names the first, and why.
        """
        whys = await asyncio.gather(*(diagnose(link.address, self._access) for link in unreachable))
        for link, why in zip(unreachable, whys, strict=True):
            if why is not None:
                raise FleetError(f"--workers: {link.address}: {why}")

    @staticmethod
    def _refuse_given_up(pending: list[WorkerLink]) -> None:
        """Do not wait for what a node itself waits for no longer.

        Raises:
            FleetError: Names the first replica, and why.
        """
        for link in pending:
            for index, replica in enumerate(link.info.replicas):
                if replica.state == pb.WORKER_STATE_FAILED:
                    raise FleetError(f"--workers: {link.address}: replica {index}: {replica.reason}")

    async def _settle(self, link: WorkerLink, serving: asyncio.Task[None]) -> None:
        """Ask one worker until it has told, or is lost."""
        patience_s = self._patience.limits.silence_s + CALL_TIMEOUT_S
        asking = asyncio.ensure_future(link.stream.settle(patience_s))
        await asyncio.wait({asking, serving}, return_when=asyncio.FIRST_COMPLETED)
        if asking.done():
            asking.result()
        asking.cancel()

    async def _serve(self, link: WorkerLink) -> None:
        """Own a link for the run: carry, and after a loss take the worker back when it can be had."""
        try:
            while True:
                await self._carry(link)
                if self._settling:
                    return
                await link.reconnect()
                await self._readmit(link)
                # An ended stream is a knot of tracebacks, tasks and gRPC's channel, 200 KiB in all, and no
                # collection comes by itself in a run. What was there at its begin is frozen: this is short.
                gc.collect()
        except Exception as error:
            logger.exception("dispatcher failed")
            self._owner.fail(f"dispatcher: {error!r}")

    async def _carry(self, link: WorkerLink) -> None:
        """Carry a stream until the worker is lost."""
        try:
            await link.stream.carry(lambda columns: self._owner.deliver(link, columns))
        except WorkerLost as loss:
            link.live = False
            self._last_words[link.address] = loss.reason
            if not self._patience.continues:
                self._owner.fail(f"{loss} (--on-worker-loss fail)")
            self._owner.lose(link, loss.reason)

    async def _readmit(self, link: WorkerLink) -> None:
        """Take a worker back after the same checks as at the start."""
        said = ""
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            obstacle = await self._try(link)
            if not obstacle:
                break
            if obstacle != said:
                logger.info("worker %s is not back: %s", link.address, obstacle)
                said = obstacle
        link.live = True
        logger.info("worker %s is back: process %d", link.address, link.info.pid)
        self._owner.refill()

    async def _try(self, link: WorkerLink) -> str:
        """Try to open a stream to a worker that was lost; returns why not, or an empty string."""
        state = await link.probe()
        if state.startswith(UNREACHABLE):
            return await diagnose(link.address, self._access) or state
        if state != "SERVING":
            return state
        others = [other for other in self.live if other is not link]
        try:
            check_agreement([*others, link])
            opened = await link.open(self._opening)
        except (FleetError, WorkerLost) as error:
            return str(error)
        if opened.spec_hash != self._spec_hash:
            await link.reconnect()
            return f"run specification {opened.spec_hash} where {self._spec_hash} belongs"
        return ""
