"""The product's engine: vLLM's engine core, token ids in and the new tokens of every step out."""

import asyncio
import copy
import gc
import logging
import multiprocessing
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from protos import worker_pb2 as pb
from protos.columns import PromptColumns
from worker.engine_protocol import EngineDead, EngineInfo, Load, Step
from worker.engines.vllm.causes import Causes, one_line, with_kind
from worker.engines.vllm.engine_args import EngineFlags, build_engine, describe, parse_engine_flags
from worker.engines.vllm.engine_core import STOPPED, Core
from worker.engines.vllm.step import Held
from worker.engines.vllm.warm_up import WARM_UP_TOKENS, random_prompts, warm_up_sizes

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.engine.async_llm import AsyncLLM

__all__ = ["VllmEngine", "parse_engine_flags"]

logger = logging.getLogger(__name__)

WARM_UP_TIMEOUT_S = 600.0
WATCH_INTERVAL_S = 0.5
RESET_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 15.0
# Requests handed to vLLM in one turn of the event loop: 25 us each with a prompt of 3,000 tokens.
FEED_SIZE = 16


class VllmEngine:
    """The Engine protocol over one engine core: one task feeds it, another reads its steps."""

    def __init__(self, flags: EngineFlags) -> None:
        self._flags = flags
        self._loading: asyncio.Future[AsyncLLM] | None = None
        self._stop_token_ids: tuple[int, ...] = ()
        self._params: SamplingParams | None = None
        # Not handed to vLLM yet, by name; what it is to drop, by its id.
        self._queued: dict[int, tuple[list[int], int]] = {}
        self._aborted: list[str] = []
        self._held = Held()
        self._feeder: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        # Outputs, and when they came.
        self._steps: deque[tuple[list[EngineCoreOutput], int]] = deque()
        self._wake = asyncio.Event()
        self._causes: Causes | None = None
        self._death: str | None = None

    async def start(self) -> EngineInfo:
        """Load the model in a thread, so that the event loop goes on, and warm up.

        Raises:
            ValueError: vLLM refuses the configuration.
            EngineDead: The engine failed while starting.
        """
        self._causes = causes = Causes(is_local=self._flags.is_local)
        self._loading = asyncio.get_running_loop().run_in_executor(None, build_engine, self._flags)
        # Shielded: the thread goes on when the caller gives up, and close() must know of its engine.
        try:
            llm = await asyncio.shield(self._loading)
            self._core = Core(llm)
            await self._core.prepare()
        except EngineDead as error:
            raise EngineDead(causes.first() or str(error)) from error
        self._tasks = [asyncio.create_task(self._watch(llm)), asyncio.create_task(self._read())]
        engine_info = describe(self._flags, llm.vllm_config)
        self._stop_token_ids = engine_info.stop_token_ids
        await self._warm_up(engine_info)
        causes.start_over()
        # A full collection over what vLLM's import leaves behind stops the event loop for 0.4 s.
        gc.collect()
        gc.freeze()
        return engine_info

    def open(self, spec: pb.RunSpec) -> None:
        """Take the sampling parameters of the run that begins.

        Raises:
            ValueError: vLLM refuses them.
        """
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError

        try:
            self._params = SamplingParams(
                temperature=spec.temperature,
                top_p=spec.top_p,
                top_k=spec.top_k,
                seed=spec.seed if spec.HasField("seed") else None,
                max_tokens=spec.max_new_tokens,
                # Without a tokenizer vLLM knows no end of sequence of its own.
                stop_token_ids=list(self._stop_token_ids),
                detokenize=False,
                # Every request has a shallow copy; vLLM's deep one costs more than the rest of a submit.
                skip_clone=True,
            )
        except (ValueError, TypeError, VLLMValidationError) as error:
            raise ValueError(one_line(error)) from error

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests; they reach vLLM in this order."""
        ends = prompts.prompt_lens.cumsum(dtype=np.int64).tolist()
        starts = [0, *ends[:-1]]
        budgets = prompts.max_new_tokens.tolist()
        for name, start, end, budget in zip(prompts.requests.tolist(), starts, ends, budgets, strict=True):
            self._queued[name] = prompts.prompt_tokens[start:end].tolist(), budget
        self._start_feeder()

    def cancel(self, requests: list[int]) -> None:
        """Stop requests by name; vLLM drops them from its next step on."""
        for name in requests:
            self._queued.pop(name, None)
        self._aborted += self._held.drop(set(requests))
        self._start_feeder()

    async def step(self) -> Step:
        """Wait for the next step of the engine that is about requests held here.

        Raises:
            EngineDead: No more will come.
        """
        while True:
            while self._steps:
                if step := self._held.take(*self._steps.popleft()):
                    return step
            if self._death is not None:
                raise EngineDead(self._death)
            self._wake.clear()
            await self._wake.wait()

    def load(self) -> Load:
        """Count requests with a first token as running, the others as waiting."""
        load = self._held.load()
        return Load(load.running, load.waiting + len(self._queued))

    async def reset(self) -> None:
        """Abort every request; an engine that does not let go of them in time is dead."""
        self._queued.clear()
        self._aborted += self._held.drop_all()
        self._start_feeder()
        if self._feeder is not None:
            _, late = await asyncio.wait({self._feeder}, timeout=RESET_TIMEOUT_S)
            if late:
                self._die(f"its requests were not aborted within {RESET_TIMEOUT_S:.0f} s")
        self._steps.clear()

    async def close(self) -> None:
        """Stop vLLM's processes, also while it loads."""
        for task in (*self._tasks, self._feeder):
            if task is not None:
                task.cancel()
        # Let go of: what vLLM left of a broken load complains when the interpreter ends before it is freed.
        loading, self._loading = self._loading, None
        if loading is None:
            return
        await _interrupt(loading)
        if loading.done() and not loading.exception():
            # vLLM kills what has not stopped within the time limit.
            await asyncio.to_thread(loading.result().shutdown, CLOSE_TIMEOUT_S)
        # Collects the exit codes: without it the engine core stays a zombie.
        multiprocessing.active_children()
        if self._causes is not None:
            self._causes.close()

    def _start_feeder(self) -> None:
        if (self._queued or self._aborted) and (self._feeder is None or self._feeder.done()):
            self._feeder = asyncio.create_task(self._feed())

    async def _feed(self) -> None:
        """Hand over what is queued, a few in each turn of the loop, and what is to be dropped before it."""
        try:
            while self._queued or self._aborted:
                if self._aborted:
                    aborted, self._aborted = self._aborted, []
                    await self._core.abort(aborted)
                for name in list(islice(self._queued, FEED_SIZE)):
                    # Cancelled while another was on its way: gone.
                    if queued := self._queued.pop(name, None):
                        await self._hand_over(name, *queued)
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 - vLLM's kinds are many; each ends the engine
            self._fail(error)

    async def _hand_over(self, name: int, prompt: list[int], budget: int) -> None:
        params = copy.copy(self._params)
        assert params is not None
        params.max_tokens = budget
        await self._core.add(self._held.add(name), prompt, params)

    async def _read(self) -> None:
        """Take what the engine core produces, as it comes."""
        try:
            while True:
                self._steps.append((await self._core.step(), time.monotonic_ns()))
                self._wake.set()
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)

    async def _watch(self, llm: "AsyncLLM") -> None:
        """Notice the engine's death also while nothing is read."""
        while not llm.errored:  # noqa: ASYNC110 - vLLM offers no event to wait for
            await asyncio.sleep(WATCH_INTERVAL_S)
        self._fail(EngineDead(STOPPED))

    def _fail(self, error: Exception) -> None:
        """Die of an error; of a stopped engine core, say what it logged."""
        if isinstance(error, EngineDead):
            cause = self._causes.first() if self._causes else ""
            self._die(f"{error}: {cause}" if cause else f"{error}; its log above says why")
        else:
            self._die(with_kind(error))

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


async def _interrupt(loading: "asyncio.Future[AsyncLLM]") -> None:
    """Kill the processes that a loading engine has started, so that its thread comes back."""
    from vllm.utils.system_utils import kill_process_tree

    deadline_s = time.monotonic() + CLOSE_TIMEOUT_S
    while not loading.done() and time.monotonic() < deadline_s:
        for child in multiprocessing.active_children():
            assert child.pid is not None
            kill_process_tree(child.pid)
        await asyncio.wait({loading}, timeout=0.2)
