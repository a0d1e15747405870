"""The vLLM engine: implements the Engine protocol over vLLM's engine core."""

import asyncio
import contextlib
import copy
import gc
import logging
import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from protos import worker_pb2 as pb
from protos.columns import PromptColumns
from worker.engine_protocol import EngineDead, EngineInfo, Load, Step
from worker.engines.model.model_hash import ModelHash
from worker.engines.model.warm_up_batches import WARM_UP_TOKENS, WarmUpBatch, random_prompts, warm_up_batches
from worker.engines.vllm.causes import CauseLog, one_line, with_type
from worker.engines.vllm.compile_log import CompileLog
from worker.engines.vllm.core_process import interrupt_load
from worker.engines.vllm.engine_args import EngineFlags, build_engine, describe, parse_engine_flags
from worker.engines.vllm.engine_core import STOPPED, CoreClient
from worker.engines.vllm.engine_facts import node_settings
from worker.engines.vllm.follower_links import FollowerLinks, follower_links
from worker.engines.vllm.ipc_directory import IpcDirectory
from worker.engines.vllm.multi_node import use_network
from worker.engines.vllm.step import CoreRequests
from worker.engines.vllm.warm_up import run_step_sizes, step_size_groups

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.engine.async_llm import AsyncLLM

__all__ = ["VllmEngine", "parse_engine_flags"]

logger = logging.getLogger(__name__)

WARM_UP_TIMEOUT_S = 600.0
WATCH_INTERVAL_S = 0.5
RESET_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 15.0
# A follower reports the end of a rank at once.
FOLLOWER_TIMEOUT_S = 1.0
# Requests sent to vLLM per turn of the event loop: each takes 25 us with a prompt of 3,000 tokens.
FEED_SIZE = 16


class VllmEngine:
    """The Engine protocol over one engine core: one task sends requests, another receives step outputs."""

    def __init__(self, flags: EngineFlags) -> None:
        self._flags = flags
        self._loading: asyncio.Future[AsyncLLM] | None = None
        self._stop_token_ids: tuple[int, ...] = ()
        self._params: SamplingParams | None = None
        # Requests not sent to vLLM yet, by name; requests to abort, by vLLM id.
        self._queued: dict[int, tuple[list[int], int]] = {}
        self._aborted: list[str] = []
        self._core: CoreClient | None = None
        self._core_requests = CoreRequests()
        self._feeder: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        # Outputs of each step, and when they arrived.
        self._steps: deque[tuple[list[EngineCoreOutput], int]] = deque()
        self._wake = asyncio.Event()
        self._causes: CauseLog | None = None
        self._compile_log: CompileLog | None = None
        self._death: str | None = None
        self._hashing: asyncio.Task[ModelHash] | None = None
        self._stop_hashing = threading.Event()
        self._followers: FollowerLinks | None = None
        self._exits = contextlib.AsyncExitStack()

    async def start(self) -> EngineInfo:
        """Load the model in a thread, so that the event loop is not blocked, and warm up.

        Raises:
            ValueError: vLLM refuses the configuration.
            EngineDead: The engine failed while starting.
        """
        self._causes = causes = CauseLog(is_local=self._flags.is_local)
        self._compile_log = CompileLog()
        directory = IpcDirectory(is_local=self._flags.is_local)
        for what in (causes, self._compile_log, directory):
            self._exits.callback(what.close)
        self._followers = followers = await self._join_followers()
        self._loading = asyncio.get_running_loop().run_in_executor(None, build_engine, self._flags)
        hashing = self._hashing = asyncio.ensure_future(self._hash_model())
        hashing.add_done_callback(_retrieve_exception)
        try:
            # When this task is cancelled, the thread continues, and close() shuts its engine down.
            llm = await followers.unless_lost(self._loading)
            self._core = core = CoreClient(llm)
            await core.prepare()
        except EngineDead as error:
            self._death = await followers.find_loss() or causes.first() or str(error)
            raise EngineDead(self._death) from error
        watches = (self._watch(llm), self._read(core), self._watch_followers(followers))
        self._tasks = [asyncio.create_task(watch) for watch in watches]
        model = await hashing
        engine_info = describe(self._flags, llm.vllm_config, model)
        await followers.check_model(model.model_hash)
        self._stop_token_ids = engine_info.stop_token_ids
        await self._warm_up(engine_info, llm.vllm_config)
        causes.clear()
        # A full collection over the objects that importing vLLM creates blocks the event loop for 0.4 s.
        gc.collect()
        gc.freeze()
        return engine_info

    def open(self, spec: pb.RunSpec) -> None:
        """Set the sampling parameters of the next run.

        Raises:
            ValueError: vLLM refuses the parameters.
        """
        from vllm.exceptions import VLLMValidationError

        try:
            self._params = sampling_params(spec, self._stop_token_ids)
        except (ValueError, TypeError, VLLMValidationError) as error:
            raise ValueError(one_line(error)) from error
        if self._compile_log is not None:
            self._compile_log.begin_run()

    def submit(self, prompts: PromptColumns) -> None:
        """Queue requests; they are sent to vLLM in this order."""
        ends = prompts.prompt_lens.cumsum(dtype=np.int64).tolist()
        starts = [0, *ends[:-1]]
        budgets = prompts.max_new_tokens.tolist()
        for name, start, end, budget in zip(prompts.requests.tolist(), starts, ends, budgets, strict=True):
            self._queued[name] = prompts.prompt_tokens[start:end].tolist(), budget
        self._start_feeder()

    def cancel(self, requests: list[int]) -> None:
        """Cancel requests by name; vLLM drops them from its next step on."""
        for name in requests:
            self._queued.pop(name, None)
        self._aborted += self._core_requests.drop(set(requests))
        self._start_feeder()

    async def step(self) -> Step:
        """Wait for the next step with tokens of current requests.

        Raises:
            EngineDead: The engine will produce no more tokens.
        """
        while True:
            while self._steps:
                if step := self._core_requests.take(*self._steps.popleft()):
                    return step
            if self._death is not None:
                raise EngineDead(self._death)
            self._wake.clear()
            await self._wake.wait()

    def load(self) -> Load:
        """Count requests with a first token as running, the others as waiting."""
        load = self._core_requests.load()
        kv_use = None if self._core is None else self._core.kv_use
        # The log has the kernels of this machine's ranks only.
        log = self._compile_log if self._flags.place.nnodes == 1 else None
        compiled = None if log is None else log.counts()
        return Load(load.running, load.waiting + len(self._queued), kv_use, compiled)

    async def reset(self) -> None:
        """Abort all requests; an engine that does not abort them in time counts as dead."""
        self._queued.clear()
        self._aborted += self._core_requests.drop_all()
        self._start_feeder()
        try:
            async with asyncio.timeout(RESET_TIMEOUT_S):
                await self._wait_aborted()
        except TimeoutError:
            self._die(f"its requests were not aborted within {RESET_TIMEOUT_S:.0f} s")
        self._steps.clear()

    async def close(self) -> None:
        """Tell the followers why the engine ends, and stop vLLM's processes, also during a load."""
        self._stop_hashing.set()
        for task in (*self._tasks, self._feeder, self._hashing):
            if task is not None:
                task.cancel()
        if self._followers is not None:
            await self._followers.close(self._death or "its daemon has been stopped")
        await self._stop_core()
        await self._exits.aclose()

    async def _stop_core(self) -> None:
        # Drop the reference: objects of a failed load print errors if they still exist at interpreter exit.
        loading, self._loading = self._loading, None
        if loading is None:
            return
        await interrupt_load(loading)
        if loading.done() and not loading.exception():
            # vLLM kills processes that have not stopped within the timeout.
            await asyncio.to_thread(loading.result().shutdown, CLOSE_TIMEOUT_S)
        # Reaps child processes: otherwise the engine core remains a zombie.
        multiprocessing.active_children()

    async def _wait_aborted(self) -> None:
        """Wait until the engine core has taken the aborts; one whose ranks hang reads no message."""
        if self._feeder is not None:
            await asyncio.wait({self._feeder})
        assert self._core is not None
        answered = asyncio.ensure_future(self._core.answer())
        answered.add_done_callback(_retrieve_exception)
        try:
            while not answered.done() and self._death is None:
                await asyncio.wait({answered}, timeout=WATCH_INTERVAL_S)
        finally:
            answered.cancel()

    async def _join_followers(self) -> FollowerLinks:
        """Wait until every other node of this engine is ready to load."""
        place = self._flags.place
        followers = await self._exits.enter_async_context(
            follower_links(place, node_settings(self._flags.given))
        )
        if place.nnodes > 1:
            use_network(followers.own_address)
        await followers.join()
        return followers

    async def _hash_model(self) -> ModelHash:
        """Hash the model's files in a thread, while vLLM loads them or once it has downloaded them."""
        assert self._loading is not None
        if not self._flags.is_downloaded:
            await asyncio.shield(self._loading)
        return await asyncio.to_thread(self._flags.hash_model, self._stop_hashing)

    def _start_feeder(self) -> None:
        if (self._queued or self._aborted) and (self._feeder is None or self._feeder.done()):
            assert self._core is not None
            self._feeder = asyncio.create_task(self._feed(self._core))

    async def _feed(self, core: CoreClient) -> None:
        """Send aborts and then queued requests to the engine core, FEED_SIZE per turn of the event loop."""
        try:
            while self._queued or self._aborted:
                if self._aborted:
                    aborted, self._aborted = self._aborted, []
                    await core.abort(aborted)
                for name in list(islice(self._queued, FEED_SIZE)):
                    # None if the request was cancelled while another one was being sent.
                    if queued := self._queued.pop(name, None):
                        await self._send(core, name, *queued)
                await asyncio.sleep(0)
        except Exception as error:  # noqa: BLE001 - vLLM raises many types; each ends the engine
            await self._fail(error)

    async def _send(self, core: CoreClient, name: int, prompt: list[int], budget: int) -> None:
        params = copy.copy(self._params)
        assert params is not None
        params.max_tokens = budget
        await core.add(self._core_requests.add(name), prompt, params)

    async def _read(self, core: CoreClient) -> None:
        """Receive step outputs as they arrive."""
        try:
            while True:
                self._steps.append((await core.step(), time.monotonic_ns()))
                self._wake.set()
        except Exception as error:  # noqa: BLE001 - as above
            await self._fail(error)

    async def _watch(self, llm: "AsyncLLM") -> None:
        """Detect the engine's death, also while no step is awaited."""
        while not llm.errored:  # noqa: ASYNC110 - vLLM has no event to wait for
            await asyncio.sleep(WATCH_INTERVAL_S)
        await self._fail(EngineDead(STOPPED))

    async def _watch_followers(self, followers: FollowerLinks) -> None:
        self._die(await followers.lost)

    async def _fail(self, error: Exception) -> None:
        """Mark the engine dead; the cause of a stopped engine core is the first exception it logged."""
        lost = None if self._followers is None else await self._followers.find_loss()
        if lost is not None:
            self._die(lost)
        elif isinstance(error, EngineDead):
            cause = self._causes.first() if self._causes else None
            self._die(f"{error}: {cause}" if cause else f"{error}; see its log above")
        else:
            self._die(with_type(error))

    def _die(self, reason: str) -> None:
        self._death = self._death or reason
        self._wake.set()

    async def _warm_up(self, engine_info: EngineInfo, config: "VllmConfig") -> None:
        """Run random prompts in the batch and step sizes of a run; the first of a size compiles kernels.

        Data set rows are not used: the rules forbid it (inference_rules.adoc).
        """
        from vllm.platforms import current_platform

        start_s = time.monotonic()
        self.open(pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=WARM_UP_TOKENS))
        num_before = 0

        async def run(batch: WarmUpBatch) -> None:
            nonlocal num_before
            self.submit(random_prompts(num_before, batch, engine_info.vocab_size))
            num_before += batch.num_requests
            await self._finish(batch.num_requests)

        for batch in warm_up_batches(engine_info, is_cpu=current_platform.is_cpu()):
            await run(batch)
        await run_step_sizes(step_size_groups(config), run, self._num_compiled)
        await self.reset()
        seconds = time.monotonic() - start_s
        logger.info(
            "warmed up on %d prompts in %.1f s; %d kernels compiled",
            num_before,
            seconds,
            self._num_compiled(),
        )

    def _num_compiled(self) -> int:
        """Count the kernels compiled since `open`; 0 if the engine does not report them."""
        compiled = None if self._compile_log is None else self._compile_log.counts()
        return 0 if compiled is None else compiled.num

    async def _finish(self, num_requests: int) -> None:
        """Wait until this many requests of the warm-up have finished.

        Raises:
            EngineDead: They take longer than any batch should, or the engine has died.
        """
        try:
            async with asyncio.timeout(WARM_UP_TIMEOUT_S):
                while num_requests:
                    num_requests -= len((await self.step()).columns.finished_rows)
        except TimeoutError as error:
            raise EngineDead(f"a warm-up batch did not end within {WARM_UP_TIMEOUT_S:.0f} s") from error


def sampling_params(spec: pb.RunSpec, stop_token_ids: Sequence[int]) -> "SamplingParams":
    """Return vLLM's parameters of a run; answers end at exactly these ids, which the worker reports."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        seed=spec.seed if spec.HasField("seed") else None,
        max_tokens=spec.max_new_tokens,
        stop_token_ids=list(stop_token_ids),
        # Otherwise vLLM adds the ids of its tokenizer and of the generation config that it finds.
        ignore_eos=True,
        detokenize=False,
        # Each request gets a shallow copy; vLLM's deep copy costs more than the rest of a submit.
        skip_clone=True,
    )


def _retrieve_exception(ended: "asyncio.Future[ModelHash] | asyncio.Future[None]") -> None:
    """Mark a task's exception as retrieved, so that asyncio does not log it if the load has failed first."""
    if not ended.cancelled():
        ended.exception()
