"""Base of the engines that load a model: vLLM and SGLang."""

import asyncio
import gc
import time
from collections import deque
from collections.abc import Coroutine
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from protos.columns import PromptColumns, TokenIds
from worker.engine_protocol import EngineDead, Load, Step
from worker.engines.model.engine_requests import EngineRequests
from worker.engines.model.hash_task import HashTask
from worker.engines.model.warm_up_batches import WarmUpBatch, random_prompts

# Requests sent to the engine per turn of the event loop: vLLM takes 25 us for a prompt of 3,000 tokens.
FEED_SIZE = 16
WARM_UP_TIMEOUT_S = 600.0

_Output = TypeVar("_Output")
_T = TypeVar("_T")


def freeze_heap() -> None:
    """Exclude what an engine has created while it loaded from Python's garbage collections.

    A full collection over the objects that importing vLLM or SGLang creates blocks the event loop for 0.4 s.
    """
    gc.collect()
    gc.freeze()


class ModelEngine(Generic[_Output]):
    """Queues of requests and of step outputs; a subclass exchanges them with the engine's processes.

    One task sends requests, another receives step outputs; the engine dies if a task fails.
    """

    def __init__(self, reset_timeout_s: float) -> None:
        """Create the queues.

        Args:
            reset_timeout_s: Longest time in which the engine aborts all requests.
        """
        self._reset_timeout_s = reset_timeout_s
        self._requests = EngineRequests()
        # Requests not sent to the engine yet, by name; requests to abort, by the engine's id.
        self._queued: dict[int, tuple[TokenIds, int]] = {}
        self._aborted: list[str] = []
        # Outputs of each step, and when they arrived.
        self._steps: deque[tuple[_Output, int]] = deque()
        self._wake = asyncio.Event()
        self._death: str | None = None
        self._died = asyncio.Event()
        self._feeder: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._hashing: HashTask | None = None
        self._num_warm_up_prompts = 0

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests; they are sent to the engine in this order."""
        ends = prompts.prompt_lens.cumsum(dtype=np.int64).tolist()
        starts = [0, *ends[:-1]]
        budgets = prompts.max_new_tokens.tolist()
        for name, start, end, budget in zip(prompts.requests.tolist(), starts, ends, budgets, strict=True):
            self._queued[name] = prompts.prompt_tokens[start:end], budget
        self._start_feeder()

    def cancel(self, requests: list[int]) -> None:
        """Cancel requests by name; the engine drops them from its next step on."""
        for name in requests:
            self._queued.pop(name, None)
        self._aborted += self._requests.drop(set(requests))
        self._start_feeder()

    async def step(self) -> Step:
        """Wait for the next step with tokens of current requests.

        Raises:
            EngineDead: The engine will produce no more tokens.
        """
        while True:
            while self._steps:
                if step := self._to_step(*self._steps.popleft()):
                    return step
            if self._death is not None:
                raise EngineDead(self._death)
            self._wake.clear()
            await self._wake.wait()

    def load(self) -> Load:
        """Count requests with a first token as running, the others as waiting."""
        load = self._requests.load()
        return load._replace(waiting=load.waiting + len(self._queued))

    async def reset(self) -> None:
        """Abort all requests; an engine that does not abort them in time counts as dead."""
        self._queued.clear()
        dropped, self._aborted = [*self._aborted, *self._requests.drop_all()], []
        if self._death is None:
            try:
                async with asyncio.timeout(self._reset_timeout_s):
                    await self._unless_dead(self._empty(dropped))
            except TimeoutError:
                self._die(f"its requests were not aborted within {self._reset_timeout_s:.0f} s")
            except EngineDead as error:
                self._die(str(error))
        self._steps.clear()

    async def close(self) -> None:
        """Cancel all tasks; a subclass then stops the engine's processes."""
        for task in self._tasks:
            task.cancel()
        if self._hashing is not None:
            self._hashing.close()

    async def _send(self, request_id: str, prompt: TokenIds, budget: int) -> None:
        """Send a request to the engine."""
        raise NotImplementedError

    async def _abort(self, request_ids: list[str]) -> None:
        """Abort requests; the engine may not have some of them any more."""
        raise NotImplementedError

    async def _abort_all(self, request_ids: list[str]) -> None:
        """Abort the engine's requests, of which these are all."""
        await self._abort(request_ids)

    async def _receive(self) -> _Output:
        """Wait for the output of the engine's next step."""
        raise NotImplementedError

    def _to_step(self, output: _Output, produced_ns: int) -> Step | None:
        """Convert a step's output; None if it has no tokens of current requests.

        Raises:
            EngineDead: The engine ended a request without completing its answer.
        """
        raise NotImplementedError

    def _reason(self, error: BaseException) -> str:
        """Describe on one line why the engine has died, by the error of a task."""
        raise NotImplementedError

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a part of the engine in a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._take_failure)
        return task

    def _take_failure(self, ended: asyncio.Task[Any]) -> None:
        self._tasks.discard(ended)
        if not ended.cancelled() and (error := ended.exception()) is not None:
            self._die(self._reason(error))

    def _die(self, reason: str) -> None:
        """Mark the engine dead; the first reason counts."""
        self._death = self._death or reason
        self._died.set()
        self._wake.set()

    async def _unless_dead(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await an answer of the engine.

        Raises:
            EngineDead: The work has failed, or the engine has died before the answer came.
        """
        answer, death = asyncio.create_task(work), asyncio.create_task(self._died.wait())
        answer.add_done_callback(self._take_failure)
        try:
            await asyncio.wait({answer, death}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            death.cancel()
            answer.cancel()
        if not answer.done() or answer.exception() is not None:
            raise EngineDead(self._death)
        return answer.result()

    def _start_feeder(self) -> None:
        if (self._queued or self._aborted) and (self._feeder is None or self._feeder.done()):
            self._feeder = self._run(self._feed())

    async def _feed(self) -> None:
        """Send aborts and then queued requests to the engine, FEED_SIZE per turn of the event loop."""
        while self._queued or self._aborted:
            if self._aborted:
                aborted, self._aborted = self._aborted, []
                await self._abort(aborted)
            for name in list(islice(self._queued, FEED_SIZE)):
                # None if the request was cancelled while another one was being sent.
                if queued := self._queued.pop(name, None):
                    prompt, budget = queued
                    await self._send(self._requests.add(name, budget), prompt, budget)
            await asyncio.sleep(0)

    async def _read(self) -> None:
        """Receive step outputs as they arrive."""
        while True:
            self._steps.append((await self._receive(), time.monotonic_ns()))
            self._wake.set()

    async def _empty(self, request_ids: list[str]) -> None:
        if self._feeder is not None:
            # It may be sending a request.
            await asyncio.wait({self._feeder})
        await self._abort_all(request_ids)

    async def _run_warm_up(self, vocab_size: int, batch: WarmUpBatch) -> None:
        """Run random prompts to their end; data set rows are not used: inference_rules.adoc forbids it.

        Raises:
            EngineDead: They take longer than any batch should, or the engine has died.
        """
        self.submit(random_prompts(self._num_warm_up_prompts, batch, vocab_size))
        self._num_warm_up_prompts += batch.num_requests
        num_running = batch.num_requests
        try:
            async with asyncio.timeout(WARM_UP_TIMEOUT_S):
                while num_running:
                    num_running -= len((await self.step()).columns.finished_rows)
        except TimeoutError as error:
            raise EngineDead(f"a warm-up batch did not end within {WARM_UP_TIMEOUT_S:.0f} s") from error
