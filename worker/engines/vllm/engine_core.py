"""The part of vLLM's front end that a worker uses: requests to the engine core, what its steps produce.

`AsyncLLM.generate` makes an object and wakes a task for every token. Below it the engine core says what a
step produced in one message, the shape of our own frame. That interface is vLLM's internal one: what is used
of it stands here alone, and is looked for before a model loads.
"""

import asyncio
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.engine_protocol import EngineDead

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
    from vllm.v1.engine.async_llm import AsyncLLM

STOPPED = "vLLM's engine core has stopped"
# A core that has just started answers within milliseconds; one that stops meanwhile leaves vLLM waiting.
PREPARE_TIMEOUT_S = 60.0
KNOWN_VERSIONS = "0.25.1 and 0.32.0"
"""Versions that this was run with."""
_USED = (
    "vllm.v1.engine.async_llm:AsyncLLM.get_supported_tasks",
    "vllm.v1.engine.core_client:AsyncMPClient.add_request_async",
    "vllm.v1.engine.core_client:AsyncMPClient.abort_requests_async",
    "vllm.v1.engine.core_client:AsyncMPClient.get_output_async",
    "vllm.v1.engine.exceptions:EngineDeadError",
    "vllm.v1.engine.input_processor:InputProcessor.process_inputs",
    "vllm.v1.engine:EngineCoreOutputs.outputs",
    "vllm.v1.engine:EngineCoreOutput.request_id",
    "vllm.v1.engine:EngineCoreOutput.new_token_ids",
    "vllm.v1.engine:EngineCoreOutput.finish_reason",
    "vllm.inputs.engine:tokens_input",
)


def check_interface() -> None:
    """Look for everything that is used.

    Raises:
        ValueError: Names what this vLLM does not have.
    """
    for name in _USED:
        try:
            pkgutil.resolve_name(name)
        except AttributeError as error:
            raise ValueError(f"--engine: {_unknown(f'has no {name}')}") from error
        except ImportError as error:
            raise ValueError(f"--engine: {_unknown(f'has no {name} ({error})')}") from error


class Core:
    """The engine core behind an AsyncLLM whose own output loop never starts."""

    def __init__(self, llm: "AsyncLLM") -> None:
        """Look at an engine; `prepare` comes before all else.

        Raises:
            EngineDead: It is built in another way: see check_interface, and what only an instance tells.
        """
        try:
            self._client = llm.engine_core
            self._input_processor = llm.input_processor
            has_reader = llm.output_handler is not None
        except AttributeError as error:
            raise EngineDead(_unknown(f"has no AsyncLLM.{error.name}")) from error
        if has_reader:
            # Each step would go to one of two readers.
            raise EngineDead(_unknown("reads its engine core already"))
        self._llm = llm

    async def prepare(self) -> None:
        """Ask what the engine can do, which vLLM checks every request against.

        Raises:
            EngineDead: The engine core has stopped, or does not answer.
        """
        try:
            async with asyncio.timeout(PREPARE_TIMEOUT_S):
                with _alive():
                    self._tasks = await self._llm.get_supported_tasks()
        except TimeoutError as error:
            raise EngineDead(STOPPED) from error

    async def add(self, request_id: str, prompt: list[int], params: "SamplingParams") -> None:
        """Hand over a request, tokens in.

        Raises:
            ValueError: vLLM refuses it.
            EngineDead: The engine core has stopped.
        """
        from vllm.inputs.engine import tokens_input

        # A rendered prompt: a raw one takes a detour through vLLM's thread for tokenizing.
        rendered = tokens_input(prompt)
        request: EngineCoreRequest = self._input_processor.process_inputs(
            request_id, rendered, params, supported_tasks=self._tasks
        )
        with _alive():
            await self._client.add_request_async(request)

    async def abort(self, request_ids: list[str]) -> None:
        """Have requests dropped; ids that the engine core does not have are ignored.

        Raises:
            EngineDead: The engine core has stopped.
        """
        with _alive():
            await self._client.abort_requests_async(request_ids)

    async def step(self) -> "list[EngineCoreOutput]":
        """Wait for what the next step produced, one output of each of its requests.

        Raises:
            EngineDead: The engine core has stopped.
        """
        with _alive():
            outputs: list[EngineCoreOutput] = (await self._client.get_output_async()).outputs
        return outputs


@contextmanager
def _alive() -> Iterator[None]:
    """Say in this worker's words that the engine core has stopped."""
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise EngineDead(STOPPED) from error


def _unknown(what: str) -> str:
    import vllm

    return f"vllm {vllm.__version__} {what}: this worker was run with {KNOWN_VERSIONS}"
