"""One gRPC call per request with its tokens as a server stream, like vLLM's and SMG's gRPC servers.

The messages are those of the product's protocol, so that both sides use the same protobuf runtime.
`packed` holds the budget (<u4) and the prompt in a request; an end flag (<u1) and the tokens in a response.
"""

import struct
from array import array
from collections.abc import AsyncIterator

import grpc
import numpy as np

from bench.peers.streams import Chunk, Streams
from protos import worker_pb2 as pb
from protos.columns import CHANNEL_OPTIONS, TokenIds

SERVICE = "tokenfleet.bench.PerRequest"
PROMPT_HEAD = struct.Struct("<I")
CHUNK_HEAD = struct.Struct("<?")
# A busy loop accepts one call per turn, and an Offline query issues all its calls at once. By default gRPC
# cancels calls that have waited for 30 s, and refuses some when a thousand wait.
SERVER_OPTIONS = [
    *CHANNEL_OPTIONS,
    ("grpc.server_max_unrequested_time_in_server", 3600),
    ("grpc.server.max_pending_requests", 1 << 20),
    ("grpc.server.max_pending_requests_hard_limit", 1 << 20),
]
Context = grpc.aio.ServicerContext[pb.Submit, pb.Tokens]


async def serve(streams: Streams, port: int) -> None:
    """Serve until killed."""

    async def generate(request: pb.Submit, _: Context) -> AsyncIterator[pb.Tokens]:
        packed = request.packed
        (budget,) = PROMPT_HEAD.unpack_from(packed)
        async for chunk in streams.generate(np.frombuffer(packed, "<i4", offset=PROMPT_HEAD.size), budget):
            head = CHUNK_HEAD.pack(chunk.finished)
            yield pb.Tokens(packed=head + array("i", chunk.tokens).tobytes())

    handler = grpc.unary_stream_rpc_method_handler(
        generate,
        request_deserializer=pb.Submit.FromString,
        response_serializer=pb.Tokens.SerializeToString,
    )
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Generate": handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


class Client:
    """A channel to one server."""

    def __init__(self, address: str) -> None:
        """Create an unconnected channel."""
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._generate = self._channel.unary_stream(
            f"/{SERVICE}/Generate",
            request_serializer=pb.Submit.SerializeToString,
            response_deserializer=pb.Tokens.FromString,
        )

    async def connect(self) -> None:
        """Wait until the server accepts calls."""
        await self._channel.channel_ready()

    async def generate(self, prompt: TokenIds, max_new_tokens: int) -> AsyncIterator[Chunk]:
        """Send one request and yield its chunks."""
        request = pb.Submit(packed=PROMPT_HEAD.pack(max_new_tokens) + prompt.tobytes())
        async for message in self._generate(request):
            packed = message.packed
            (finished,) = CHUNK_HEAD.unpack_from(packed)
            yield Chunk(array("i", packed[CHUNK_HEAD.size :]), finished)

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
