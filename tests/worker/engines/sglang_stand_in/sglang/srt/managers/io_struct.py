"""Messages between the front end and the scheduler, pickled; fields as in SGLang, as far as they are used."""

from array import array
from dataclasses import dataclass, field
from typing import Any

import zmq
import zmq.asyncio

from sglang.srt.sampling.sampling_params import SamplingParams


@dataclass(kw_only=True)
class TokenizedGenerateReqInput:
    """A request."""

    rid: str | None = None
    input_text: Any
    input_ids: "array[int] | None"
    input_embeds: Any
    mm_inputs: Any
    token_type_ids: Any
    sampling_params: SamplingParams
    return_logprob: bool
    logprob_start_len: int
    top_logprobs_num: int
    token_ids_logprob: Any
    stream: bool


@dataclass(kw_only=True, slots=True)
class BatchTokenIDOutput:
    """The outputs of a step."""

    rids: list[str] | None = None
    finished_reasons: list[dict[str, Any] | None]
    output_ids: "list[array[int]] | None"


@dataclass(kw_only=True)
class AbortReq:
    """Aborts requests whose id begins with `rid`, or reports that one was aborted."""

    rid: str = ""
    abort_all: bool = False
    finished_reason: dict[str, Any] | None = None


@dataclass(kw_only=True)
class FlushCacheReqInput:
    """Asks to drop the cache once no request is left."""

    timeout_s: float | None = None


@dataclass(kw_only=True, slots=True)
class FlushCacheReqOutput:
    """The answer."""

    success: bool


@dataclass(kw_only=True)
class GetLoadsReqInput:
    """Asks for the load."""

    include: list[str] = field(default_factory=lambda: ["all"])


@dataclass(kw_only=True, slots=True)
class GetLoadsReqOutput:
    """The answer."""

    token_usage: float
    max_running_requests: int


def sock_send(socket: "zmq.Socket[bytes]", obj: object, flags: int = 0) -> None:
    """Send a message."""
    socket.send_pyobj(obj, flags)


def sock_recv(socket: "zmq.Socket[bytes]", flags: int = 0) -> Any:
    """Receive a message."""
    return socket.recv_pyobj(flags)


async def async_sock_send(socket: zmq.asyncio.Socket, obj: object, flags: int = 0) -> None:
    """Send a message."""
    await socket.send_pyobj(obj, flags)


async def async_sock_recv(socket: zmq.asyncio.Socket, flags: int = 0) -> Any:
    """Receive a message."""
    return await socket.recv_pyobj(flags)
