"""The SGLang engine: implements the Engine protocol over SGLang's scheduler."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from common.text import printable
from protos import worker_pb2 as pb
from protos.columns import TokenIds
from worker.engine_protocol import EngineDead, EngineInfo, Load, Step
from worker.engines.model.hash_task import HashTask
from worker.engines.model.model_engine import ModelEngine, freeze_heap
from worker.engines.model.warm_up_batches import WARM_UP_TOKENS, warm_up_batches
from worker.engines.sglang.scheduler_link import SchedulerLink, port_args_in, sampling_params
from worker.engines.sglang.scheduler_output import SchedulerOutput, to_step
from worker.engines.sglang.server_flags import ServerFlags, describe, parse_server_flags
from worker.engines.sglang.sglang_processes import SglangProcesses
from worker.machine.locked_directory import LockedDirectory

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import GetLoadsReqOutput
    from sglang.srt.sampling.sampling_params import SamplingParams

__all__ = ["SglangEngine", "parse_server_flags"]

logger = logging.getLogger(__name__)

LOAD_INTERVAL_S = 1.0
# SGLang reports an abort that takes longer; without its report the engine is dead after twice this time.
RESET_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 60.0
"""Time for the first answer of a loaded scheduler."""
MAX_REASON_LEN = 300


class SglangEngine(ModelEngine[SchedulerOutput]):
    """The Engine protocol over one scheduler."""

    def __init__(self, flags: ServerFlags) -> None:
        super().__init__(2 * RESET_TIMEOUT_S)
        self._flags = flags
        self._directory: LockedDirectory | None = None
        self._processes: SglangProcesses | None = None
        self._link: SchedulerLink | None = None
        self._stop_token_ids: tuple[int, ...] = ()
        self._vocab_size = 0
        self._params: SamplingParams | None = None
        self._kv_use: float | None = None

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
        self._hashing = hashing = HashTask(self._flags.hash_model)
        info = await processes.load()
        self._run(self._read())
        self._run(self._watch(processes))
        load = await self._first_load(link)
        engine_info = describe(self._flags, await hashing.result(), info, load)
        self._stop_token_ids, self._vocab_size = engine_info.stop_token_ids, engine_info.vocab_size
        await self._warm_up(engine_info)
        self._run(self._poll_load(link))
        freeze_heap()
        return engine_info

    async def _first_load(self, link: SchedulerLink) -> "GetLoadsReqOutput":
        """Ask the scheduler for its limits.

        Raises:
            EngineDead: SGLang has ended, or does not answer.
        """
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._unless_dead(link.load())
        except TimeoutError as error:
            raise EngineDead(f"SGLang's scheduler has not answered for {ANSWER_TIMEOUT_S:g} s") from error

    def open(self, spec: pb.RunSpec) -> None:
        """Set the sampling parameters of the next run.

        Raises:
            ValueError: SGLang refuses the parameters, or would not use the seed.
        """
        if spec.HasField("seed") and not self._flags.server_args.enable_deterministic_inference:
            raise ValueError("seed: SGLang uses it only with --enable-deterministic-inference")
        self._params = sampling_params(spec, self._stop_token_ids, self._vocab_size)

    def load(self) -> Load:
        """Add the use of the KV cache."""
        return super().load()._replace(kv_use=self._kv_use)

    async def close(self) -> None:
        """Stop SGLang's processes, also during a load."""
        await super().close()
        if self._processes is not None:
            processes, self._processes = self._processes, None
            await processes.close()
        if self._link is not None:
            self._link.close()
        if self._directory is not None:
            self._directory.close()

    async def _send(self, request_id: str, prompt: TokenIds, budget: int) -> None:
        assert self._link is not None
        assert self._params is not None
        await self._link.add(request_id, prompt, self._params, budget)

    async def _abort(self, request_ids: list[str]) -> None:
        assert self._link is not None
        await self._link.abort(request_ids)

    async def _abort_all(self, _: list[str]) -> None:
        """Abort also requests that the worker does not know, and wait until SGLang has none."""
        assert self._link is not None
        await self._link.abort_all(RESET_TIMEOUT_S)

    async def _receive(self) -> SchedulerOutput:
        assert self._link is not None
        return await self._link.step()

    def _to_step(self, output: SchedulerOutput, produced_ns: int) -> Step | None:
        return to_step(self._requests, self._stop_token_ids, output, produced_ns)

    async def _watch(self, processes: SglangProcesses) -> None:
        """Detect the end of SGLang's processes, also while no step is awaited."""
        raise EngineDead(await processes.end())

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, EngineDead):
            return str(error)
        return printable(" ".join(f"{type(error).__name__}: {error}".split()), MAX_REASON_LEN)

    async def _poll_load(self, link: SchedulerLink) -> None:
        while True:
            self._kv_use = (await link.load()).token_usage
            await asyncio.sleep(LOAD_INTERVAL_S)

    async def _warm_up(self, engine_info: EngineInfo) -> None:
        """Run random prompts in the batch sizes of a run."""
        start_s = time.monotonic()
        self.open(pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=WARM_UP_TOKENS))
        for batch in warm_up_batches(engine_info, is_cpu=self._flags.server_args.device == "cpu"):
            await self._run_warm_up(engine_info.vocab_size, batch)
        await self.reset()
        logger.info(
            "warmed up on %d prompts in %.1f s", self._num_warm_up_prompts, time.monotonic() - start_s
        )
