"""msgspec's MessagePack over ZMQ, a message per chunk: the shape of MLCommons endpoints' stream chunks.

Structs travel as arrays and are left out of garbage collection, as there. Cheaper than there: a request is
named by a number instead of a UUID in text, tokens are ids instead of text, and an end is a flag of the last
chunk instead of a message that repeats the answer.
Source: mlcommons/endpoints, src/inference_endpoint/core/types.py and async_utils/transport/zmq.
"""

from collections.abc import Iterable

import msgspec
import numpy as np

from bench.peers import messages
from bench.peers.streams import Chunk
from worker.engines.scripted.counting import CountingEngine


class _Query(msgspec.Struct, array_like=True, frozen=True, gc=False):
    name: int
    prompt: list[int]
    max_new_tokens: int


class StreamChunk(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True, gc=False):
    """New tokens of one request."""

    name: int
    tokens: list[int]
    produced_ns: int
    finished: bool = False


_ENCODER = msgspec.msgpack.Encoder()
_QUERIES = msgspec.msgpack.Decoder(_Query)
_CHUNKS = msgspec.msgpack.Decoder(StreamChunk)


async def serve(engine: CountingEngine, tokens_per_message: int, port: int) -> None:
    """Serve for ever."""
    await messages.serve(engine, tokens_per_message, port, MsgspecCodec())


class MsgspecCodec:
    """See the module."""

    def encode_request(self, request: messages.Request) -> bytes:
        """Pack a request."""
        return _ENCODER.encode(_Query(request.name, request.prompt.tolist(), request.max_new_tokens))

    def decode_request(self, body: bytes) -> messages.Request:
        """Unpack it."""
        query = _QUERIES.decode(body)
        return messages.Request(query.name, np.array(query.prompt, np.int32), query.max_new_tokens)

    def encode_chunk(self, name: int, chunk: Chunk) -> Iterable[bytes]:
        """Pack a chunk: one message."""
        return (_ENCODER.encode(StreamChunk(name, list(chunk.tokens), chunk.produced_ns, chunk.finished)),)

    def decode_message(self, body: bytes) -> StreamChunk:
        """Unpack it."""
        return _CHUNKS.decode(body)
