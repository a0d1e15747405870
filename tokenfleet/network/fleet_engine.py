"""The Engine protocol over a fleet of workers: what a Network SUT serves.

A run of LoadGen's node is a run on every worker. It opens and ends with it; the workers are those of the
coordinator's scheduler, with its routing and its failover.
"""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Sequence
from typing import NamedTuple

from coordinator.scheduling.event_loop import opening_of
from coordinator.scheduling.scheduler import Scheduler, Task
from coordinator.transport.access import Access
from coordinator.transport.agreement import ABSENT, FleetError, worker_warnings
from coordinator.transport.fleet import Fleet, OpenFleet, Patience
from coordinator.transport.stream import BEAT_INTERVAL_S, WorkerLost
from coordinator.transport.worker_answers import MAX_WARNINGS
from protos import worker_pb2 as pb
from protos.columns import PromptColumns
from sut.settings import Scenario
from tokenfleet.network.answer_steps import AnswerSteps
from tokenfleet.network.incoming_prompts import IncomingPrompts
from worker.engine_protocol import EngineInfo, Load, RunFailed, Step
from worker.engines.model.fact_encoding import bounded

logger = logging.getLogger(__name__)

MAX_NUM_SEQS = 1 << 20
"""Requests that a Network SUT takes at once: LoadGen's node holds none back."""
NODES_TIMEOUT_S = 10.0
NUM_WORKERS = "num_workers"
"""Fact by which a submission knows a Network SUT: the machines behind it are not in the record."""


class FleetSettings(NamedTuple):
    """The workers and how they are used."""

    addresses: Sequence[str]
    access: Access
    patience: Patience
    scenario: Scenario
    ready_timeout_s: float
    max_losses: int
    """The run fails if one request has lost its worker this many times without a new token."""


class FleetEngine:
    """One fleet as an engine; every method runs on the server's event loop."""

    def __init__(self, settings: FleetSettings) -> None:
        """Create it; `start` connects."""
        self._settings = settings
        self._fleet: Fleet | None = None
        self._run: _FleetRun | None = None

    async def start(self) -> EngineInfo:
        """Wait until every worker is ready.

        Raises:
            ValueError: A worker is not ready in time, or workers differ.
        """
        fleet = self._fleet = await _ready_fleet(self._settings)
        info = fleet.links[0].info
        served = [(link.address, link.info) for link in fleet.links]
        return EngineInfo(
            engine=info.engine,
            engine_version=info.engine_version,
            model=info.model,
            model_hash=info.model_hash,
            vocab_size=info.vocab_size,
            max_model_len=info.max_model_len,
            max_num_seqs=MAX_NUM_SEQS,
            tensor_parallel_size=info.tensor_parallel_size,
            stop_token_ids=tuple(info.stop_token_ids),
            engine_args=dict(info.engine_args),
            engine_facts=dict(info.engine_facts),
            execution_facts=facts_of_all([link.info for link in fleet.links]),
            weights_sha256=info.weights_sha256,
            warnings=tuple(worker_warnings(served))[:MAX_WARNINGS],
        )

    def open(self, spec: pb.RunSpec) -> None:
        """Begin a run on every worker; a worker that refuses it fails the run."""
        self._run = _FleetRun(self._settings, spec)

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests."""
        self._current.submit(prompts)

    def cancel(self, requests: list[int]) -> None:
        """Send nothing more of requests; the workers finish them."""
        self._current.cancel(requests)

    async def step(self) -> Step:
        """Wait for tokens of one request.

        Raises:
            RunFailed: The run failed on the workers.
        """
        return await self._current.step()

    def load(self) -> Load:
        """Count the requests on the workers, and those that wait for one."""
        return Load(0, 0) if self._run is None else self._run.load()

    async def reset(self) -> None:
        """End the run; its streams are closed, so that the workers drop its requests."""
        if self._run is not None:
            await self._run.close()
            self._run = None

    async def close(self) -> None:
        """End the run and close the connections."""
        await self.reset()
        if self._fleet is not None:
            await self._fleet.close()

    async def ask_nodes(self) -> list[str]:
        """Ask every worker for its machine; returns their names, once each, or none if a worker is silent."""
        if self._fleet is None:
            return []
        try:
            hosts = await asyncio.gather(*(link.ask_host(NODES_TIMEOUT_S) for link in self._fleet.links))
        except WorkerLost as error:
            logger.error("a worker did not answer: %s", error)
            return []
        return list(dict.fromkeys(host.hostname for host in hosts))

    @property
    def _current(self) -> "_FleetRun":
        assert self._run is not None, "no run is open"
        return self._run


def facts_of_all(infos: Sequence[pb.WorkerInfo]) -> dict[str, str]:
    """Return how the engines of the workers execute; different values are listed beside each other."""
    names = sorted({name for info in infos for name in info.execution_facts})
    found = {
        name: " | ".join(dict.fromkeys(info.execution_facts.get(name, ABSENT) for info in infos))
        for name in names
    }
    return bounded(found) | {NUM_WORKERS: str(len(infos))}


async def _ready_fleet(settings: FleetSettings) -> Fleet:
    """Connect to the workers and wait until they are ready.

    Raises:
        FleetError: A worker is not ready in time, or workers differ.
    """
    fleet = Fleet(settings.addresses, settings.access, settings.patience)
    try:
        await fleet.wait_ready(settings.ready_timeout_s)
    except BaseException:
        await fleet.close()
        raise
    return fleet


class _FleetRun:
    """One run on every worker."""

    def __init__(self, settings: FleetSettings, spec: pb.RunSpec) -> None:
        self._settings = settings
        self._spec = spec
        self._prompts = IncomingPrompts()
        self._waiting: list[PromptColumns] = []
        self._cancelled: list[int] = []
        self._scheduler: Scheduler | None = None
        self._steps: AnswerSteps | None = None
        self._failure: str | None = None
        self._changed = asyncio.Event()
        self._serving = asyncio.ensure_future(self._serve())
        self._serving.add_done_callback(self._end)

    def submit(self, prompts: PromptColumns) -> None:
        if self._scheduler is None:
            self._waiting.append(prompts)
        else:
            self._scheduler.issue(*self._prompts.add(prompts))

    def cancel(self, requests: list[int]) -> None:
        self._cancelled += requests
        if self._steps is not None:
            self._steps.cancel(requests)

    async def step(self) -> Step:
        while self._failure is None:
            if self._steps is None:
                await self._changed.wait()
            elif step := self._steps.take():
                return step
            else:
                await self._steps.wait()
        raise RunFailed(self._failure)

    def load(self) -> Load:
        if self._scheduler is None:
            return Load(0, len(self._waiting))
        return Load(sum(self._scheduler.outstanding), len(self._scheduler.backlog))

    async def close(self) -> None:
        self._serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._serving

    async def _serve(self) -> None:
        """Open the run, check it once a second, and close its streams at the end."""
        try:
            fleet = await _ready_fleet(self._settings)
        except FleetError as error:
            self._fail(str(error))
            return
        try:
            await self._carry(fleet)
        except (FleetError, WorkerLost) as error:
            self._fail(str(error))
        finally:
            await fleet.close()

    async def _carry(self, fleet: Fleet) -> None:
        info = fleet.links[0].info
        steps = AnswerSteps(self._settings.scenario, info.stop_token_ids, self._prompts.drop)
        task = Task(
            dataset=self._prompts,
            reports=steps,
            max_new_tokens=self._spec.max_new_tokens,
            max_losses=self._settings.max_losses,
            keep=lambda *_: None,
        )
        scheduler = Scheduler(task, fleet.links, self._fail, asyncio.get_running_loop())
        streams = await fleet.open(opening_of(f"network-{uuid.uuid4().hex[:8]}", self._spec), scheduler)
        self._begin(scheduler, steps)
        try:
            await _beat(streams, scheduler)
        finally:
            await streams.halt()

    def _begin(self, scheduler: Scheduler, steps: AnswerSteps) -> None:
        self._scheduler, self._steps = scheduler, steps
        steps.cancel(self._cancelled)
        for prompts in self._waiting:
            self.submit(prompts)
        self._changed.set()

    def _end(self, serving: asyncio.Task[None]) -> None:
        """Let `step` raise, whatever has ended the run."""
        if not serving.cancelled() and (error := serving.exception()) is not None:
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, reason: str) -> None:
        logger.error("the run failed: %s", reason)
        self._failure = self._failure or reason
        self._changed.set()
        if self._steps is not None:
            self._steps.wake()


async def _beat(streams: OpenFleet, scheduler: Scheduler) -> None:
    """Check workers once a second, as a coordinator does."""
    while True:
        await asyncio.sleep(BEAT_INTERVAL_S)
        streams.beat(scheduler.outstanding)
        scheduler.beat(time.monotonic_ns())
        scheduler.keep_answers()
