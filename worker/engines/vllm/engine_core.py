"""Client of vLLM's engine core: sends requests and receives the outputs of each step.

`AsyncLLM.generate` creates an object and wakes a task for every token. The engine core below it sends the
outputs of a step as one message, which maps to one token frame. This interface is internal to vLLM; only this
file uses it, and check_interface checks for it before a model loads.
"""

import asyncio
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.engine_protocol import EngineDead
from worker.engines.model.interface_check import EngineUnavailable, check_names
from worker.engines.vllm.worker_extension import check_loads_async

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
    from vllm.v1.engine.async_llm import AsyncLLM

STOPPED = "vLLM's engine core has stopped"
# A started engine core answers within milliseconds; if it stops before it answers, vLLM waits forever.
PREPARE_TIMEOUT_S = 60.0
KNOWN_VERSIONS = "0.25.1, 0.32.0 and 0.33.0"
"""vLLM versions that this client was tested with; docs/engines.md says how."""
_USED = (
    "vllm.v1.engine.async_llm:AsyncLLM.get_supported_tasks",
    "vllm.v1.engine.async_llm:AsyncLLM.collective_rpc",
    "vllm.model_executor.model_loader.dummy_loader:DummyModelLoader.load_weights",
    "vllm.v1.engine.core:EngineCoreProc.run_engine_core",
    "vllm.v1.engine.core_client:AsyncMPClient.add_request_async",
    "vllm.v1.engine.core_client:AsyncMPClient.abort_requests_async",
    "vllm.v1.engine.core_client:AsyncMPClient.get_output_async",
    "vllm.v1.engine.core_client:AsyncMPClient.get_supported_tasks_async",
    "vllm.v1.executor.multiproc_executor:WorkerProc.worker_main",
    "vllm.v1.engine.exceptions:EngineDeadError",
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs",
    "vllm.v1.engine:EngineCoreOutputs.outputs",
    "vllm.v1.engine:EngineCoreOutputs.scheduler_stats",
    "vllm.v1.engine:EngineCoreOutput.request_id",
    "vllm.v1.engine:EngineCoreOutput.new_token_ids",
    "vllm.v1.engine:EngineCoreOutput.finish_reason",
    "vllm.v1.engine:EngineCoreOutput.events",
    "vllm.inputs.engine:tokens_input",
)


def check_installed() -> None:
    """Check that vLLM is installed, without importing it.

    Raises:
        EngineUnavailable: vLLM is missing; the message says how to install it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise EngineUnavailable(
            "vllm",
            "vLLM is not installed: pip install '.[gpu]' or ./setup.sh; the engine counting works without it",
        )


def check_interface() -> None:
    """Check that this vLLM has every internal interface that the client uses.

    Raises:
        EngineUnavailable: Names the interface that is missing.
    """
    check_names("vllm", _USED, _unsupported)


class CoreClient:
    """The engine core behind an AsyncLLM whose own output loop is never started."""

    def __init__(self, llm: "AsyncLLM") -> None:
        """Check and take over the engine core of an AsyncLLM; call `prepare` before other methods.

        Raises:
            EngineDead: The instance lacks an attribute that this client uses, or already reads its outputs.
        """
        try:
            self._client = llm.engine_core
            self._input_processor = llm.input_processor
            has_reader = llm.output_handler is not None
        except AttributeError as error:
            raise EngineDead(_unsupported(f"has no AsyncLLM.{error.name}")) from error
        if has_reader:
            # With two readers each would receive only some of the steps.
            raise EngineDead(_unsupported("already reads its engine core"))
        self._llm = llm
        self.kv_use: float | None = None
        """Share of the KV cache in use after the latest step; None without vLLM's statistics."""

    async def prepare(self) -> None:
        """Query the engine's supported tasks, against which vLLM checks each request; check random weights.

        Raises:
            EngineDead: The engine core has stopped or does not answer, or its random weights use few experts.
        """
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                with _translated():
                    self._tasks = await self._llm.get_supported_tasks()
                    await check_loads_async(self._llm)
        except TimeoutError as error:
            raise EngineDead(STOPPED) from error

    async def add(self, request_id: str, prompt: list[int], params: "SamplingParams") -> None:
        """Send a request.

        Raises:
            ValueError: vLLM refuses the request.
            EngineDead: The engine core has stopped.
        """
        from vllm.inputs.engine import tokens_input

        # A raw prompt would pass through vLLM's tokenizer thread.
        rendered = tokens_input(prompt)
        request: EngineCoreRequest = self._input_processor.process_inputs(
            request_id, rendered, params, supported_tasks=self._tasks
        )
        with _translated():
            await self._client.add_request_async(request)

    async def abort(self, request_ids: list[str]) -> None:
        """Abort requests; unknown ids are ignored.

        Raises:
            EngineDead: The engine core has stopped.
        """
        with _translated():
            await self._client.abort_requests_async(request_ids)

    async def answer(self) -> None:
        """Wait for an answer of the engine core, which reads messages only between two steps.

        Raises:
            EngineDead: The engine core has stopped.
        """
        with _translated():
            await self._client.get_supported_tasks_async()

    async def step(self) -> "list[EngineCoreOutput]":
        """Wait for the outputs of the next step, one per request.

        Raises:
            EngineDead: The engine core has stopped.
        """
        with _translated():
            got: EngineCoreOutputs = await self._client.get_output_async()
        if got.scheduler_stats is not None:
            self.kv_use = got.scheduler_stats.kv_cache_usage
        outputs: list[EngineCoreOutput] = got.outputs
        return outputs


@contextmanager
def _translated() -> Iterator[None]:
    """Translate vLLM's EngineDeadError to EngineDead."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise EngineDead(STOPPED) from error


def _unsupported(reason: str) -> str:
    import vllm

    return f"vllm {vllm.__version__} {reason}: this worker was tested with {KNOWN_VERSIONS}"
