"""Link to SGLang's scheduler: sends requests and receives the outputs of each step.

SGLang's `TokenizerManager` creates an object and wakes a task for every token. The scheduler below it sends
the outputs of a step as one message, which maps to one token frame. This module takes the place of the
TokenizerManager at its two sockets. The messages are internal to SGLang; only this folder uses them, and
check_sglang_interface checks for them before a model loads.
"""

import asyncio
import copy
import dataclasses
import importlib.util
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from protos import worker_pb2 as pb
from protos.columns import TokenIds
from worker.engine_protocol import EngineDead
from worker.engines.model.interface_check import EngineUnavailable, check_names
from worker.engines.sglang.scheduler_output import SchedulerOutput

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import GetLoadsReqOutput
    from sglang.srt.sampling.sampling_params import SamplingParams
    from sglang.srt.server_args import PortArgs

KNOWN_VERSIONS = "0.5.15"
"""SGLang versions whose interface this module was compared with."""
ABORTED = {"type": "abort"}
"""Finish reason of a request that SGLang has aborted before it began."""
_USED = (
    "sglang.srt.entrypoints.engine:Engine._launch_subprocesses",
    "sglang.srt.entrypoints.engine:Engine.run_scheduler_process_func",
    "sglang.srt.entrypoints.engine:Engine.run_detokenizer_process_func",
    "sglang.srt.model_loader.loader:initialize_dummy_weights",
    "sglang.srt.server_args:ServerArgs.add_cli_args",
    "sglang.srt.server_args:ServerArgs.from_cli_args",
    "sglang.srt.server_args:ServerArgs.check_server_args",
    "sglang.srt.server_args:ServerArgs.enable_deterministic_inference",
    "sglang.srt.server_args:PortArgs.init_new",
    "sglang.srt.sampling.sampling_params:SamplingParams.normalize",
    "sglang.srt.sampling.sampling_params:SamplingParams.verify",
    "sglang.srt.managers.io_struct:TokenizedGenerateReqInput",
    "sglang.srt.managers.io_struct:BatchTokenIDOutput.rids",
    "sglang.srt.managers.io_struct:BatchTokenIDOutput.output_ids",
    "sglang.srt.managers.io_struct:BatchTokenIDOutput.finished_reasons",
    "sglang.srt.managers.io_struct:AbortReq",
    "sglang.srt.managers.io_struct:FlushCacheReqInput",
    "sglang.srt.managers.io_struct:FlushCacheReqOutput.success",
    "sglang.srt.managers.io_struct:GetLoadsReqInput",
    "sglang.srt.managers.io_struct:GetLoadsReqOutput.token_usage",
    "sglang.srt.managers.io_struct:GetLoadsReqOutput.max_running_requests",
    "sglang.srt.managers.io_struct:async_sock_recv",
    "sglang.srt.managers.io_struct:async_sock_send",
    "sglang.srt.utils.network:get_zmq_socket",
)


def check_sglang_installed() -> None:
    """Check that SGLang is installed, without importing it.

    Raises:
        EngineUnavailable: SGLang is missing; the message says how to install it.
    """
    if importlib.util.find_spec("sglang") is None:
        raise EngineUnavailable(
            "sglang",
            "SGLang is not installed: pip install '.[sglang]' or MLPERF_BACKEND=sglang ./setup.sh; "
            "the engine counting works without it",
        )


def check_sglang_interface() -> None:
    """Check that this SGLang has every internal interface that the link and the launcher use.

    Raises:
        EngineUnavailable: Names the interface that is missing.
    """
    check_names("sglang", _USED, _unsupported)


def _unsupported(reason: str) -> str:
    from sglang.version import __version__

    return f"sglang {__version__} {reason}: this worker was written for {KNOWN_VERSIONS}"


def port_args_in(directory: Path, template: "PortArgs") -> "PortArgs":
    """Return the same addresses with all UNIX sockets in a directory, and remove the template's files."""
    moved = {}
    for name, value in vars(template).items():
        if isinstance(value, str) and value.startswith("ipc://"):
            Path(value.removeprefix("ipc://")).unlink(missing_ok=True)
            moved[name] = f"ipc://{directory / name.removesuffix('_ipc_name')}"
    return dataclasses.replace(template, **moved)


def sampling_params(spec: pb.RunSpec, stop_token_ids: Iterable[int], vocab_size: int) -> "SamplingParams":
    """Return SGLang's parameters of a run; SGLang adds the checkpoint's stop ids, which are the same.

    Raises:
        ValueError: SGLang refuses the parameters.
    """
    from sglang.srt.sampling.sampling_params import SamplingParams

    params: SamplingParams = SamplingParams(
        max_new_tokens=spec.max_new_tokens,
        stop_token_ids=set(stop_token_ids),
        temperature=spec.temperature,
        top_p=spec.top_p,
        top_k=spec.top_k,
        sampling_seed=spec.seed if spec.HasField("seed") else None,
    )
    params.normalize(None)
    params.verify(vocab_size)
    return params


class SchedulerLink:
    """The two sockets between a front end and SGLang's scheduler of rank 0."""

    def __init__(self, port_args: "PortArgs") -> None:
        """Bind both sockets; the scheduler connects to them while it loads.

        Raises:
            EngineDead: A socket cannot be bound.
        """
        import zmq
        import zmq.asyncio
        from sglang.srt.managers import io_struct
        from sglang.srt.utils.network import get_zmq_socket

        self._messages = io_struct
        self._context = zmq.asyncio.Context()
        # Futures of the answers that are awaited, by the type of the answer.
        self._awaited: dict[type, asyncio.Future[Any]] = {}
        try:
            self._outputs = get_zmq_socket(self._context, zmq.PULL, port_args.tokenizer_ipc_name, True)
            self._inputs = get_zmq_socket(self._context, zmq.PUSH, port_args.scheduler_input_ipc_name, True)
        except zmq.ZMQError as error:
            self.close()
            raise EngineDead(f"cannot bind SGLang's sockets: {error}") from error

    async def add(self, request_id: str, prompt: TokenIds, params: "SamplingParams", budget: int) -> None:
        """Send a request.

        Args:
            request_id: Not the beginning of another id: SGLang aborts by the beginning.
            prompt: (T,) token ids.
            params: Result of sampling_params.
            budget: Longest answer, in tokens.
        """
        params = copy.copy(params)
        params.max_new_tokens = budget
        request = self._messages.TokenizedGenerateReqInput(
            rid=request_id,
            input_text=None,
            input_ids=array("q", prompt.astype(np.int64).tobytes()),
            input_embeds=None,
            mm_inputs=None,
            token_type_ids=None,
            sampling_params=params,
            return_logprob=False,
            logprob_start_len=-1,
            top_logprobs_num=0,
            token_ids_logprob=None,
            stream=True,
        )
        await self._send(request)

    async def abort(self, request_ids: Iterable[str]) -> None:
        """Abort requests; unknown ids are ignored."""
        for request_id in request_ids:
            await self._send(self._messages.AbortReq(rid=request_id))

    async def abort_all(self, timeout_s: float) -> None:
        """Abort all requests; returns when none is left. Needs a task that awaits `step`.

        Raises:
            EngineDead: Requests are left after the timeout.
        """
        await self._send(self._messages.AbortReq(abort_all=True))
        # SGLang drops its cache, and with it answers, only once it has no request.
        ask = self._messages.FlushCacheReqInput(timeout_s=timeout_s)
        answer = await self._ask(ask, self._messages.FlushCacheReqOutput)
        if not answer.success:
            raise EngineDead(f"its requests were not aborted within {timeout_s:.0f} s")

    async def load(self) -> "GetLoadsReqOutput":
        """Ask the scheduler for its load and limits. Needs a task that awaits `step`."""
        ask = self._messages.GetLoadsReqInput(include=["core"])
        load: GetLoadsReqOutput = await self._ask(ask, self._messages.GetLoadsReqOutput)
        return load

    async def step(self) -> SchedulerOutput:
        """Wait for the outputs of the next step."""
        while True:
            message = await self._messages.async_sock_recv(self._outputs)
            if isinstance(message, self._messages.BatchTokenIDOutput):
                return SchedulerOutput(message.rids, message.output_ids, message.finished_reasons)
            if isinstance(message, self._messages.AbortReq):
                return SchedulerOutput([message.rid], [array("q")], [message.finished_reason or ABORTED])
            self._answer(message)

    def close(self) -> None:
        """Close both sockets."""
        self._context.destroy(linger=0)

    async def _send(self, message: object) -> None:
        await self._messages.async_sock_send(self._inputs, message)

    async def _ask(self, message: object, kind: type) -> Any:
        future = self._awaited[kind] = asyncio.get_running_loop().create_future()
        await self._send(message)
        return await future

    def _answer(self, message: object) -> None:
        future = self._awaited.pop(type(message), None)
        if future is not None and not future.done():
            future.set_result(message)
