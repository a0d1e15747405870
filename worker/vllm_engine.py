"""The product's engine: vLLM's AsyncLLM, token ids in and the new tokens of every step out."""

import asyncio
import copy
import gc
import logging
import multiprocessing
import time
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from protos import worker_pb2 as pb
from protos.frames import PromptColumns
from worker.engine import EngineDead, EngineInfo, Load, Step
from worker.vllm_args import EngineFlags, build_engine, describe, one_line, parse_engine_flags
from worker.vllm_step import PendingStep
from worker.vllm_warm_up import WARM_UP_TOKENS, random_prompts, warm_up_sizes

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

__all__ = ["VllmEngine", "parse_engine_flags"]

logger = logging.getLogger(__name__)

WARM_UP_TIMEOUT_S = 600.0
WATCH_INTERVAL_S = 0.5
RESET_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 15.0
# Requests handed to vLLM in one turn of the event loop: 0.2 ms each with a prompt of 1,000 tokens.
FEED_SIZE = 16
# None goes on. vLLM's other reasons (abort, error, repetition) are no answers.
_REASONS = {None: None, "stop": pb.FINISH_REASON_STOP, "length": pb.FINISH_REASON_LENGTH}


class VllmEngine:
    """The Engine protocol over one AsyncLLM, one task per request."""

    def __init__(self, flags: EngineFlags) -> None:
        self._flags = flags
        self._loading: asyncio.Future[AsyncLLM] | None = None
        self._llm: AsyncLLM | None = None
        self._stop_token_ids: tuple[int, ...] = ()
        self._params: SamplingParams | None = None
        self._num_requests = 0
        # Requests by name: not handed to vLLM yet, handed over, and those of the latter with a first token.
        self._queued: dict[int, tuple[list[int], int]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._running: set[int] = set()
        # Cancelled and not gone yet: their names may be in use again.
        self._leaving: set[asyncio.Task[None]] = set()
        self._feeder: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._pending = PendingStep()
        self._wake = asyncio.Event()
        self._death: str | None = None

    async def start(self) -> EngineInfo:
        """Load the model in a thread, so that the event loop goes on, and warm up.

        Raises:
            ValueError: vLLM refuses the configuration.
            EngineDead: The engine failed while starting.
        """
        self._loading = asyncio.get_running_loop().run_in_executor(None, build_engine, self._flags)
        # Shielded: the thread goes on when the caller gives up, and close() must know of its engine.
        self._llm = await asyncio.shield(self._loading)
        self._watcher = asyncio.create_task(self._watch())
        engine_info = describe(self._flags, self._llm.vllm_config)
        self._stop_token_ids = engine_info.stop_token_ids
        await self._warm_up(engine_info)
        # A full collection over what vLLM's import leaves behind stops the event loop for 0.4 s.
        gc.collect()
        gc.freeze()
        return engine_info

    def open(self, spec: pb.RunSpec) -> None:
        """Take the sampling parameters of the run that begins."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._params = SamplingParams(
            temperature=spec.temperature,
            top_p=spec.top_p,
            top_k=spec.top_k,
            seed=spec.seed if spec.HasField("seed") else None,
            max_tokens=spec.max_new_tokens,
            # Without a tokenizer vLLM knows no end of sequence of its own.
            stop_token_ids=list(self._stop_token_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            # Every request has its own shallow copy; vLLM's deep one costs more than the rest of a submit.
            skip_clone=True,
        )

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests; they reach vLLM in this order."""
        ends = prompts.prompt_lens.cumsum(dtype=np.int64).tolist()
        starts = [0, *ends[:-1]]
        budgets = prompts.max_new_tokens.tolist()
        for name, start, end, budget in zip(prompts.requests.tolist(), starts, ends, budgets, strict=True):
            self._queued[name] = prompts.prompt_tokens[start:end].tolist(), budget
        if self._feeder is None or self._feeder.done():
            self._feeder = asyncio.create_task(self._feed())

    def cancel(self, requests: list[int]) -> None:
        """Stop requests by name; vLLM drops them from its next step on."""
        for name in requests:
            self._queued.pop(name, None)
            if task := self._tasks.pop(name, None):
                task.cancel()
                self._leaving.add(task)
                self._running.discard(name)
                self._pending.drop(name)

    async def step(self) -> Step:
        """Wait for new tokens and take those of all requests of the engine's step.

        Raises:
            EngineDead: No more will come.
        """
        await self._wake.wait()
        # The tasks of one step wake one after the other in one turn of the loop: let the turn end.
        await asyncio.sleep(0)
        pending, self._pending = self._pending, PendingStep()
        if self._death is None:
            self._wake.clear()
        elif not pending.tokens:
            raise EngineDead(self._death)
        return pending.pack()

    def load(self) -> Load:
        """Count requests with a first token as running, the others as waiting."""
        num_running = len(self._running)
        return Load(num_running, len(self._queued) + len(self._tasks) - num_running)

    async def reset(self) -> None:
        """Abort every request; an engine that does not let go of them in time is dead."""
        self._queued.clear()
        tasks = [*self._tasks.values(), *self._leaving]
        for task in tasks:
            task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=RESET_TIMEOUT_S)
            if late:
                self._die(f"{len(late)} requests not aborted within {RESET_TIMEOUT_S:.0f} s")
            # The tasks' last callbacks run in the next turn of the loop.
            await asyncio.sleep(0)
        self._pending = PendingStep()
        if self._death is None:
            self._wake.clear()

    async def close(self) -> None:
        """Stop vLLM's processes, also while it loads."""
        for task in (self._watcher, self._feeder, *self._tasks.values()):
            if task is not None:
                task.cancel()
        # Let go of: what vLLM left of a broken load complains when the interpreter ends before it is freed.
        loading, self._loading = self._loading, None
        if loading is None:
            return
        await _interrupt(loading)
        if loading.done() and not loading.exception():
            await _shut_down(loading.result())
        # Collects the exit codes: without it the engine core stays a zombie.
        multiprocessing.active_children()

    async def _feed(self) -> None:
        """Hand queued requests to vLLM, a few in each turn of the loop."""
        while self._queued:
            for name in list(islice(self._queued, FEED_SIZE)):
                prompt, budget = self._queued.pop(name)
                task = asyncio.create_task(self._generate(name, prompt, budget))
                self._tasks[name] = task
                task.add_done_callback(partial(self._on_done, name))
            await asyncio.sleep(0)

    async def _generate(self, name: int, prompt: list[int], budget: int) -> None:
        from vllm.inputs.engine import tokens_input

        assert self._llm is not None
        params = copy.copy(self._params)
        assert params is not None
        params.max_tokens = budget
        # vLLM's request ids must be new, a coordinator's names are so only within a run.
        self._num_requests += 1
        request_id = f"{name}-{self._num_requests}"
        # A rendered prompt: a raw one takes a detour through vLLM's thread for tokenizing.
        async for output in self._llm.generate(tokens_input(prompt), params, request_id):
            completion = output.outputs[0]
            reason = completion.finish_reason
            if reason not in _REASONS:
                raise EngineDead(f"request {request_id} ended with {reason}")
            self._pending.put(name, completion.token_ids, _REASONS[reason])
            if name not in self._running:
                self._running.add(name)
                self._pending.urgent = True
            self._wake.set()

    def _on_done(self, name: int, task: asyncio.Task[None]) -> None:
        self._leaving.discard(task)
        if self._tasks.get(name) is task:
            del self._tasks[name]
            self._running.discard(name)
        if not task.cancelled() and (error := task.exception()):
            self._die(f"{type(error).__name__}: {one_line(error)}")

    async def _watch(self) -> None:
        """Notice the engine's death also while no request is there to fail."""
        assert self._llm is not None
        while not self._llm.errored:  # noqa: ASYNC110 - vLLM offers no event to wait for
            await asyncio.sleep(WATCH_INTERVAL_S)
        self._die("vLLM's engine core has stopped; its log above says why")

    def _die(self, reason: str) -> None:
        self._death = self._death or reason
        self._wake.set()

    async def _warm_up(self, engine_info: EngineInfo) -> None:
        """Answer random prompts in the sizes to come; the first batch of a size compiles kernels.

        Never rows of a data set: the rules forbid the engine to know them (inference_rules.adoc).
        """
        start_s = time.monotonic()
        self.open(pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=WARM_UP_TOKENS))
        num_before = 0
        try:
            async with asyncio.timeout(WARM_UP_TIMEOUT_S):
                for num_requests, prompt_len in warm_up_sizes(engine_info):
                    self.submit(random_prompts(num_before, num_requests, prompt_len, engine_info.vocab_size))
                    num_before += num_requests
                    await self._finish(num_requests)
        except TimeoutError as error:
            raise EngineDead(f"no end of the warm-up within {WARM_UP_TIMEOUT_S:.0f} s") from error
        await self.reset()
        logger.info("warmed up on %d prompts in %.1f s", num_before, time.monotonic() - start_s)

    async def _finish(self, num_requests: int) -> None:
        while num_requests:
            num_requests -= len((await self.step()).columns.finished_rows)


async def _shut_down(llm: "AsyncLLM") -> None:
    """Stop a loaded engine; vLLM kills what has not stopped within the time limit."""
    # Else it may log the end of its engine core as a failure.
    if llm.output_handler is not None:
        llm.output_handler.cancel()
    await asyncio.to_thread(llm.shutdown, CLOSE_TIMEOUT_S)


async def _interrupt(loading: "asyncio.Future[AsyncLLM]") -> None:
    """Kill the processes that a loading engine has started, so that its thread comes back."""
    from vllm.utils.system_utils import kill_process_tree

    deadline_s = time.monotonic() + CLOSE_TIMEOUT_S
    while not loading.done() and time.monotonic() < deadline_s:
        for child in multiprocessing.active_children():
            assert child.pid is not None
            kill_process_tree(child.pid)
        await asyncio.wait({loading}, timeout=0.2)
