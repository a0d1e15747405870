"""The vLLM engine: implements the Engine protocol over vLLM's engine core."""

import asyncio
import copy
import logging
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from protos import worker_pb2 as pb
from protos.columns import TokenIds
from worker.engine_protocol import EngineDead, EngineInfo, Load, Step
from worker.engines.model.hash_task import HashTask
from worker.engines.model.model_engine import ModelEngine, freeze_heap
from worker.engines.model.warm_up_batches import WARM_UP_TOKENS, warm_up_batches
from worker.engines.vllm.causes import CauseLog, one_line, with_type
from worker.engines.vllm.compile_log import CompileLog
from worker.engines.vllm.core_process import stop_processes
from worker.engines.vllm.engine_args import EngineFlags, build_engine, describe, parse_engine_flags
from worker.engines.vllm.engine_core import STOPPED, CoreClient
from worker.engines.vllm.engine_facts import node_settings
from worker.engines.vllm.follower_links import FollowerLinks, FollowerLost, follower_links
from worker.engines.vllm.ipc_directory import IpcDirectory
from worker.engines.vllm.multi_node import use_network
from worker.engines.vllm.step import CoreOutput, to_step
from worker.engines.vllm.warm_up import run_step_sizes, step_size_groups

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

__all__ = ["VllmEngine", "parse_engine_flags"]

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.5
RESET_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 15.0


class VllmEngine(ModelEngine[Sequence[CoreOutput]]):
    """The Engine protocol over one engine core."""

    def __init__(self, flags: EngineFlags) -> None:
        super().__init__(RESET_TIMEOUT_S)
        self._flags = flags
        self._loading: asyncio.Future[AsyncLLM] | None = None
        self._stop_token_ids: tuple[int, ...] = ()
        self._params: SamplingParams | None = None
        self._core: CoreClient | None = None
        self._causes: CauseLog | None = None
        self._compile_log: CompileLog | None = None
        self._followers: FollowerLinks | None = None
        self._exits = AsyncExitStack()

    async def start(self) -> EngineInfo:
        """Load the model in a thread, so that the event loop is not blocked, and warm up.

        Raises:
            ValueError: vLLM refuses the configuration.
            EngineDead: The engine failed while starting.
        """
        is_local = self._flags.is_local
        self._causes = causes = self._exits.enter_context(closing(CauseLog(is_local)))
        self._compile_log = self._exits.enter_context(closing(CompileLog()))
        self._exits.enter_context(closing(IpcDirectory(is_local)))
        self._followers = followers = await self._join_followers()
        self._loading = asyncio.get_running_loop().run_in_executor(None, build_engine, self._flags)
        downloaded = None if self._flags.is_downloaded else self._loading
        self._hashing = hashing = HashTask(self._flags.hash_model, downloaded)
        try:
            # When this task is cancelled, the thread continues, and close() shuts its engine down.
            llm = await self._explained(followers.unless_lost(self._loading))
            self._core = CoreClient(llm)
            await self._explained(self._core.prepare())
        except EngineDead as error:
            self._die(str(error) if isinstance(error, FollowerLost) else causes.first() or str(error))
            raise EngineDead(self._death) from error
        for work in (self._watch(llm), self._read(), followers.raise_loss()):
            self._run(work)
        model = await hashing.result()
        engine_info = replace(describe(self._flags, llm.vllm_config, model), other_hosts=followers.hosts)
        await followers.check_model(model.model_hash)
        self._stop_token_ids = engine_info.stop_token_ids
        await self._warm_up(engine_info, llm.vllm_config)
        causes.clear()
        freeze_heap()
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

    def load(self) -> Load:
        """Add the use of the KV cache and the compilations of this run."""
        kv_use = None if self._core is None else self._core.kv_use
        # The log has the kernels of this machine's ranks only.
        log = self._compile_log if self._flags.place.nnodes == 1 else None
        compiled = None if log is None else log.counts()
        return super().load()._replace(kv_use=kv_use, compiled=compiled)

    async def close(self) -> None:
        """Tell the followers why the engine ends, and stop vLLM's processes, also during a load."""
        await super().close()
        if self._followers is not None:
            await self._followers.close(self._death or "its daemon has been stopped")
        # Drop the reference: objects of a failed load print errors if they still exist at interpreter exit.
        loading, self._loading = self._loading, None
        if loading is not None:
            # vLLM kills processes that have not stopped within the timeout.
            await stop_processes(loading, lambda llm: llm.shutdown(CLOSE_TIMEOUT_S))
        await self._exits.aclose()

    async def _join_followers(self) -> FollowerLinks:
        """Wait until every other node of this engine is ready to load."""
        place = self._flags.place
        links = follower_links(place, node_settings(self._flags.given))
        followers = await self._exits.enter_async_context(links)
        if place.nnodes > 1:
            use_network(followers.own_address)
        await followers.join()
        return followers

    async def _explained(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await an answer of the engine core; its death may follow from the loss of a follower.

        Raises:
            FollowerLost: A follower is lost.
            EngineDead: The engine core has stopped for another reason.
        """
        try:
            return await work
        except EngineDead as error:
            if self._followers is not None:
                await self._followers.raise_if_lost(error)
            raise

    async def _send(self, request_id: str, prompt: TokenIds, budget: int) -> None:
        assert self._core is not None
        assert self._params is not None
        params = copy.copy(self._params)
        params.max_tokens = budget
        await self._explained(self._core.add(request_id, prompt.tolist(), params))

    async def _abort(self, request_ids: list[str]) -> None:
        assert self._core is not None
        await self._explained(self._core.abort(request_ids))

    async def _abort_all(self, request_ids: list[str]) -> None:
        """Abort requests and wait for an answer: an engine core whose ranks hang reads no message."""
        await self._abort(request_ids)
        assert self._core is not None
        await self._explained(self._core.answer())

    async def _receive(self) -> Sequence[CoreOutput]:
        assert self._core is not None
        return await self._explained(self._core.step())

    def _to_step(self, output: Sequence[CoreOutput], produced_ns: int) -> Step | None:
        return to_step(self._requests, output, produced_ns)

    async def _watch(self, llm: "AsyncLLM") -> None:
        """Detect the engine's death, also while no step is awaited."""
        while not llm.errored:  # noqa: ASYNC110 - vLLM has no event to wait for
            await asyncio.sleep(WATCH_INTERVAL_S)
        stopped = EngineDead(STOPPED)
        if self._followers is not None:
            await self._followers.raise_if_lost(stopped)
        raise stopped

    def _reason(self, error: BaseException) -> str:
        """Describe an error; the cause of a stopped engine core is the first exception it logged."""
        if isinstance(error, FollowerLost):
            return str(error)
        if not isinstance(error, EngineDead):
            return with_type(error)
        cause = self._causes.first() if self._causes else None
        return f"{error}: {cause}" if cause else f"{error}; see its log above"

    async def _warm_up(self, engine_info: EngineInfo, config: "VllmConfig") -> None:
        """Run random prompts in the batch and step sizes of a run; the first of a size compiles kernels."""
        from vllm.platforms import current_platform

        start_s = time.monotonic()
        self.open(pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=WARM_UP_TOKENS))
        run = partial(self._run_warm_up, engine_info.vocab_size)
        for batch in warm_up_batches(engine_info, is_cpu=current_platform.is_cpu()):
            await run(batch)
        await run_step_sizes(step_size_groups(config), run, self._num_compiled)
        await self.reset()
        logger.info(
            "warmed up on %d prompts in %.1f s; %d kernels compiled",
            self._num_warm_up_prompts,
            time.monotonic() - start_s,
            self._num_compiled(),
        )

    def _num_compiled(self) -> int:
        """Count the kernels compiled since `open`; 0 if the engine does not report them."""
        compiled = None if self._compile_log is None else self._compile_log.counts()
        return 0 if compiled is None else compiled.num


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
