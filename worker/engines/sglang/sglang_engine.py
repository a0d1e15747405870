"""The SGLang engine: implements the Engine protocol over SGLang's scheduler."""

import asyncio
import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Coroutine
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from common.text import printable
from protos import worker_pb2 as pb
from protos.columns import PromptColumns, TokenIds
from worker.engine_protocol import EngineDead, EngineInfo, Load, Step
from worker.engines.model.model_hash import ModelHash
from worker.engines.model.warm_up_batches import WARM_UP_TOKENS, random_prompts, warm_up_batches
from worker.engines.sglang.request_rows import RequestRows, SchedulerOutput
from worker.engines.sglang.scheduler_link import SchedulerLink, port_args_in, sampling_params
from worker.engines.sglang.server_flags import ServerFlags, describe, parse_server_flags
from worker.engines.sglang.sglang_processes import SglangProcesses
from worker.machine.locked_directory import LockedDirectory

if TYPE_CHECKING:
    from sglang.srt.sampling.sampling_params import SamplingParams

__all__ = ["SglangEngine", "parse_server_flags"]

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

WARM_UP_TIMEOUT_S = 600.0
LOAD_INTERVAL_S = 1.0
RESET_TIMEOUT_S = 10.0
# Requests sent to SGLang per turn of the event loop.
FEED_SIZE = 16
MAX_REASON_LEN = 300


class SglangEngine:
    """The Engine protocol over one scheduler: one task sends requests, another receives step outputs."""

    def __init__(self, flags: ServerFlags) -> None:
        self._flags = flags
        self._directory: LockedDirectory | None = None
        self._processes: SglangProcesses | None = None
        self._link: SchedulerLink | None = None
        self._stop_token_ids: tuple[int, ...] = ()
        self._vocab_size = 0
        self._params: SamplingParams | None = None
        # Requests not sent to SGLang yet, by name; requests to abort, by SGLang's id.
        self._queued: dict[int, tuple[TokenIds, int]] = {}
        self._aborted: list[str] = []
        self._rows = RequestRows()
        self._feeder: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        # Outputs of each step, and when they arrived.
        self._steps: deque[tuple[SchedulerOutput, int]] = deque()
        self._wake = asyncio.Event()
        self._death: str | None = None
        self._died = asyncio.Event()
        self._kv_use: float | None = None
        self._hashing: asyncio.Task[ModelHash] | None = None
        self._stop_hashing = threading.Event()

    async def start(self) -> EngineInfo:
        """Load the model in SGLang's processes and warm up.

        Raises:
            ValueError: The configuration cannot be served.
            EngineDead: SGLang failed while starting.
        """
        from sglang.srt.server_args import PortArgs

        self._directory = LockedDirectory()
        server_args = self._flags.server_args
        port_args = port_args_in(self._directory.path, PortArgs.init_new(server_args))
        self._link = link = SchedulerLink(port_args)
        self._processes = processes = SglangProcesses(server_args, port_args)
        self._hashing = asyncio.create_task(
            asyncio.to_thread(self._flags.hash_model, self._stop_hashing), name="hash"
        )
        self._hashing.add_done_callback(_retrieve_exception)
        info = await processes.load()
        self._tasks = [self._run(self._read(link)), self._run(self._watch(processes))]
        load = await self._unless_dead(link.load())
        engine_info = describe(self._flags, await self._hashing, info, load)
        self._stop_token_ids, self._vocab_size = engine_info.stop_token_ids, engine_info.vocab_size
        self._rows = RequestRows(engine_info.stop_token_ids)
        await self._warm_up(engine_info)
        self._tasks.append(self._run(self._poll_load(link)))
        # A full collection over the objects that importing SGLang creates blocks the event loop.
        gc.collect()
        gc.freeze()
        return engine_info

    def open(self, spec: pb.RunSpec) -> None:
        """Set the sampling parameters of the next run.

        Raises:
            ValueError: SGLang refuses the parameters.
        """
        self._params = sampling_params(spec, self._stop_token_ids, self._vocab_size)

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests; they are sent to SGLang in this order."""
        parts = np.split(prompts.prompt_tokens, prompts.prompt_lens.cumsum(dtype=np.int64)[:-1])
        budgets = prompts.max_new_tokens.tolist()
        for name, part, budget in zip(prompts.requests.tolist(), parts, budgets, strict=True):
            self._queued[name] = part, budget
        self._start_feeder()

    def cancel(self, requests: list[int]) -> None:
        """Cancel requests by name; SGLang drops them from its next step on."""
        for name in requests:
            self._queued.pop(name, None)
        self._aborted += self._rows.drop(set(requests))
        self._start_feeder()

    async def step(self) -> Step:
        """Wait for the next step with tokens of current requests.

        Raises:
            EngineDead: The engine will produce no more tokens.
        """
        while True:
            while self._steps:
                if step := self._rows.take(*self._steps.popleft()):
                    return step
            if self._death is not None:
                raise EngineDead(self._death)
            self._wake.clear()
            await self._wake.wait()

    def load(self) -> Load:
        """Count requests with a first token as running, the others as waiting."""
        load = self._rows.load()
        return Load(load.running, load.waiting + len(self._queued), self._kv_use)

    async def reset(self) -> None:
        """Abort all requests; an engine that does not abort them in time counts as dead."""
        self._queued.clear()
        self._aborted.clear()
        self._rows.drop_all()
        assert self._link is not None
        if self._feeder is not None:
            # It may be about to send a request.
            await asyncio.wait({self._feeder})
        if self._death is None:
            try:
                async with asyncio.timeout(2 * RESET_TIMEOUT_S):
                    await self._unless_dead(self._link.abort_all(RESET_TIMEOUT_S))
            except TimeoutError:
                self._die(f"its requests were not aborted within {2 * RESET_TIMEOUT_S:.0f} s")
            except EngineDead as error:
                self._die(str(error))
        self._steps.clear()

    async def close(self) -> None:
        """Stop SGLang's processes, also during a load."""
        self._stop_hashing.set()
        for task in (*self._tasks, self._feeder, self._hashing):
            if task is not None:
                task.cancel()
        if self._processes is not None:
            await self._processes.close()
        if self._link is not None:
            self._link.close()
        if self._directory is not None:
            self._directory.close()

    def _start_feeder(self) -> None:
        if (self._queued or self._aborted) and (self._feeder is None or self._feeder.done()):
            assert self._link is not None
            self._feeder = self._run(self._feed(self._link))

    async def _feed(self, link: SchedulerLink) -> None:
        """Send aborts and then queued requests to SGLang, FEED_SIZE per turn of the event loop."""
        while self._queued or self._aborted:
            if self._aborted:
                aborted, self._aborted = self._aborted, []
                await link.abort(aborted)
            for name in list(islice(self._queued, FEED_SIZE)):
                # None if the request was cancelled while another one was being sent.
                if queued := self._queued.pop(name, None):
                    await self._send(link, name, *queued)
            await asyncio.sleep(0)

    async def _send(self, link: SchedulerLink, name: int, prompt: TokenIds, budget: int) -> None:
        assert self._params is not None
        await link.add(self._rows.add(name, budget), prompt, self._params, budget)

    async def _read(self, link: SchedulerLink) -> None:
        """Receive step outputs as they arrive."""
        while True:
            self._steps.append((await link.step(), time.monotonic_ns()))
            self._wake.set()

    async def _unless_dead(self, work: Coroutine[None, None, _T]) -> _T:
        """Await an answer of the scheduler.

        Raises:
            EngineDead: The engine has died before the answer came.
        """
        answer, death = asyncio.ensure_future(work), asyncio.ensure_future(self._died.wait())
        try:
            await asyncio.wait({answer, death}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            death.cancel()
            if not answer.done():
                answer.cancel()
        if not answer.done():
            raise EngineDead(self._death)
        return answer.result()

    def _run(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run a part of the engine in a task; the engine dies if it fails."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._take_failure)
        return task

    def _take_failure(self, ended: asyncio.Task[None]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            self._die(printable(" ".join(f"{type(error).__name__}: {error}".split()), MAX_REASON_LEN))

    async def _watch(self, processes: SglangProcesses) -> None:
        """Detect the end of SGLang's processes, also while no step is awaited."""
        self._die(await processes.end())

    async def _poll_load(self, link: SchedulerLink) -> None:
        while True:
            self._kv_use = (await link.load()).token_usage
            await asyncio.sleep(LOAD_INTERVAL_S)

    def _die(self, reason: str) -> None:
        self._death = self._death or reason
        self._died.set()
        self._wake.set()

    async def _warm_up(self, engine_info: EngineInfo) -> None:
        """Run random prompts in the batch sizes of a run.

        Data set rows are not used: the rules forbid it (inference_rules.adoc).
        """
        start_s = time.monotonic()
        self.open(pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=WARM_UP_TOKENS))
        num_before = 0
        try:
            async with asyncio.timeout(WARM_UP_TIMEOUT_S):
                for batch in warm_up_batches(engine_info, is_cpu=self._flags.server_args.device == "cpu"):
                    self.submit(random_prompts(num_before, batch, engine_info.vocab_size))
                    num_before += batch.num_requests
                    await self._finish(batch.num_requests)
        except TimeoutError as error:
            raise EngineDead(f"the warm-up did not end within {WARM_UP_TIMEOUT_S:.0f} s") from error
        await self.reset()
        logger.info("warmed up on %d prompts in %.1f s", num_before, time.monotonic() - start_s)

    async def _finish(self, num_requests: int) -> None:
        while num_requests:
            num_requests -= len((await self.step()).columns.finished_rows)


def _retrieve_exception(ended: "asyncio.Task[ModelHash]") -> None:
    """Mark a task's exception as retrieved, so that asyncio does not log it if the load has failed first."""
    if not ended.cancelled():
        ended.exception()
