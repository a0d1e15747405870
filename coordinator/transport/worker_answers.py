"""Ask a worker for its state, and check and clean its answers before any other code uses them.

An answer comes from another process: its size, numbers and enum values are bounded here, and unprintable
characters in its texts, such as terminal escapes, are replaced.
"""

import math
from collections.abc import Iterable
from typing import TypeVar

import grpc
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2

from common.text import printable
from protos import worker_pb2 as pb
from protos.columns import PROTOCOL_VERSION, SERVICE

HEALTH_CHECK = "/grpc.health.v1.Health/Check"
MAX_ANSWER_BYTES = 1 << 20
MAX_TEXT_LEN = 1 << 16
MAX_DETAIL_LEN = 300
MAX_VOCAB_SIZE = 1 << 24
MAX_MODEL_LEN = 1 << 30
MAX_NUM_SEQS = 1 << 20
MAX_STOP_TOKEN_IDS = 1024
MAX_WARNINGS = 32
MAX_REPLICAS = 1024
MAX_PORT = 65_535
_Answer = TypeVar("_Answer", bound=Message)


class AnswerError(ValueError):
    """An answer that no worker of this protocol gives; one printable line."""

    def __init__(self, reason: str) -> None:
        super().__init__(printable(reason, MAX_DETAIL_LEN))


async def ask_health(
    channel: grpc.aio.Channel, timeout_s: float | None = None
) -> health_pb2.HealthCheckResponse.ServingStatus:
    """Call grpc.health.v1.

    Raises:
        AnswerError: The answer does not parse, or its status is unknown.
        grpc.aio.AioRpcError: The call failed.
    """
    request = health_pb2.HealthCheckRequest(service=SERVICE)
    answer = await _ask(channel, HEALTH_CHECK, request, health_pb2.HealthCheckResponse(), timeout_s)
    return answer.status


async def ask_info(channel: grpc.aio.Channel, address: str, timeout_s: float | None = None) -> pb.WorkerInfo:
    """Call GetInfo of the worker or node at an address.

    Raises:
        AnswerError: The answer does not parse, or a value is out of bounds.
        grpc.aio.AioRpcError: The call failed.
    """
    info = await _ask(channel, f"/{SERVICE}/GetInfo", pb.GetInfoRequest(), pb.WorkerInfo(), timeout_s)
    check_info(info)
    check_replicas(address, info)
    return info


async def ask_load(channel: grpc.aio.Channel) -> pb.WorkerLoad:
    """Call GetLoad.

    Raises:
        AnswerError: The answer does not parse, or a value is out of bounds.
        grpc.aio.AioRpcError: The call failed.
    """
    return await _ask(channel, f"/{SERVICE}/GetLoad", pb.GetLoadRequest(), pb.WorkerLoad(), None)


async def ask_host(channel: grpc.aio.Channel, timeout_s: float | None = None) -> pb.HostInfo:
    """Call GetHost.

    Raises:
        AnswerError: The answer does not parse, or a value is out of bounds.
        grpc.aio.AioRpcError: The call failed.
    """
    return await _ask(channel, f"/{SERVICE}/GetHost", pb.GetHostRequest(), pb.HostInfo(), timeout_s)


def details_of(error: grpc.aio.AioRpcError) -> str:
    """Return the innermost part of a failed call's details as one printable line."""
    return printable((error.details() or "").rpartition(": ")[2], MAX_DETAIL_LEN)


def check_info(info: pb.WorkerInfo) -> None:
    """Check the numbers of a worker's description; a worker that is loading has not set all of them.

    Raises:
        AnswerError: Names the field, its value and its bound.
    """
    for name, bound in (
        ("vocab_size", MAX_VOCAB_SIZE),
        ("max_model_len", MAX_MODEL_LEN),
        ("max_num_seqs", MAX_NUM_SEQS),
    ):
        if getattr(info, name) > bound:
            raise AnswerError(f"{name} is {getattr(info, name)}, at most {bound}")
    if len(info.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise AnswerError(f"{len(info.stop_token_ids)} stop_token_ids, at most {MAX_STOP_TOKEN_IDS}")
    if len(info.warnings) > MAX_WARNINGS:
        raise AnswerError(f"{len(info.warnings)} warnings, at most {MAX_WARNINGS}")
    if (highest := max(info.stop_token_ids, default=0)) > max(info.vocab_size - 1, 0):
        raise AnswerError(f"stop token id {highest} is outside the vocabulary of {info.vocab_size}")
    if not 0 <= info.coordinator_timeout_s < math.inf:
        raise AnswerError(f"coordinator_timeout_s is {info.coordinator_timeout_s}, not a time in seconds")


def check_serving(info: pb.WorkerInfo) -> None:
    """Check that a worker that is SERVING has described its engine; a node has none.

    Raises:
        AnswerError: Names the field that is 0.
    """
    if info.replicas or info.protocol_version != PROTOCOL_VERSION:
        return
    for name in ("vocab_size", "max_model_len", "max_num_seqs"):
        if not getattr(info, name):
            raise AnswerError(f"{name} is 0")


def check_replicas(address: str, info: pb.WorkerInfo) -> None:
    """Check the ports of a node's replicas.

    Raises:
        AnswerError: Too many replicas, an impossible port, a port twice, or the node's own port.
    """
    ports = [replica.port for replica in info.replicas]
    if len(ports) > MAX_REPLICAS:
        raise AnswerError(f"{len(ports)} replicas, at most {MAX_REPLICAS}")
    for port in ports:
        if not 1 <= port <= MAX_PORT:
            raise AnswerError(f"a replica at port {port}, not between 1 and {MAX_PORT}")
    if len(set(ports)) < len(ports):
        raise AnswerError("two replicas at one port")
    if address.rpartition(":")[2] in map(str, ports):
        raise AnswerError("the node lists its own port as a replica's")


def clean(message: Message) -> None:
    """Check every text and enum value of a message, and replace unprintable characters in its texts.

    Raises:
        AnswerError: Names a field with a text that is too long or an unknown enum value.
    """
    for field, value in message.ListFields():
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            _clean_map(field, value)
        elif kind is not None:
            for part in value if field.is_repeated else (value,):
                clean(part)
        elif field.type == FieldDescriptor.TYPE_STRING:
            texts = [_cleaned(field.name, text) for text in (value if field.is_repeated else (value,))]
            if field.is_repeated:
                value[:] = texts
            else:
                setattr(message, field.name, texts[0])
        elif field.enum_type is not None:
            _check_enum(field.name, field.enum_type, value if field.is_repeated else (value,))


async def _ask(
    channel: grpc.aio.Channel, method: str, request: Message, answer: _Answer, timeout_s: float | None
) -> _Answer:
    """Make a call and parse its answer into `answer`; gRPC would log a traceback if it does not parse."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
    raw = await call(request.SerializeToString(), timeout=timeout_s)
    name = method.rpartition("/")[2] if method != HEALTH_CHECK else "health"
    if len(raw) > MAX_ANSWER_BYTES:
        raise AnswerError(f"{name}: an answer of {len(raw)} bytes, at most {MAX_ANSWER_BYTES}")
    try:
        answer.ParseFromString(raw)
        clean(answer)
    except DecodeError:
        raise AnswerError(f"{name}: the answer is not a message of this protocol") from None
    return answer


def _clean_map(field: FieldDescriptor, entries: "dict[str, str]") -> None:
    """Clean a map with text keys and text values, the only kind in this protocol."""
    cleaned = {
        _cleaned(field.name, key): _cleaned(f"{field.name}[{key!r}]", value) for key, value in entries.items()
    }
    entries.clear()
    entries.update(cleaned)


def _cleaned(name: str, text: str) -> str:
    if len(text) > MAX_TEXT_LEN:
        raise AnswerError(f"{name} has {len(text)} characters, at most {MAX_TEXT_LEN}")
    return text if text.isprintable() else printable(text, MAX_TEXT_LEN)


def _check_enum(name: str, kind: EnumDescriptor, values: Iterable[int]) -> None:
    for value in values:
        if value not in kind.values_by_number:
            raise AnswerError(f"{name} is {value}, which is unknown")
