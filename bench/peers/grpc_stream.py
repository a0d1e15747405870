"""A gRPC call per request, its tokens as a server stream: the shape of vLLM's and SMG's gRPC servers.

Messages are those of the product's wire with one request each, so both sides pay the same protobuf runtime.
"""

from array import array
from collections.abc import AsyncIterator

import grpc
import numpy as np

from bench.peers.streams import FINISHED, Chunk, Streams
from protos import worker_pb2 as pb
from protos.frames import CHANNEL_OPTIONS, TokenIds

SERVICE = "tokenfleet.bench.PerRequest"
# A busy loop takes up one call each turn, and an Offline query is all its calls at once. By default gRPC
# cancels those that have waited for 30 s, and refuses some where a thousand wait.
SERVER_OPTIONS = [
    *CHANNEL_OPTIONS,
    ("grpc.server_max_unrequested_time_in_server", 3600),
    ("grpc.server.max_pending_requests", 1 << 20),
    ("grpc.server.max_pending_requests_hard_limit", 1 << 20),
]
Context = grpc.aio.ServicerContext[pb.Submit, pb.Tokens]


async def serve(streams: Streams, port: int) -> None:
    """Serve for ever."""

    async def generate(request: pb.Submit, _: Context) -> AsyncIterator[pb.Tokens]:
        prompt = np.frombuffer(request.prompt_tokens, "<i4")
        budget = int.from_bytes(request.max_new_tokens, "little")
        async for chunk in streams.generate(prompt, budget):
            yield pb.Tokens(
                tokens=array("i", chunk.tokens).tobytes(),
                produced_ns=chunk.produced_ns,
                finish_reasons=FINISHED if chunk.finished else b"",
            )

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
    """One channel to one server."""

    def __init__(self, address: str) -> None:
        """Create a channel that is not connected yet."""
        self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._generate = self._channel.unary_stream(
            f"/{SERVICE}/Generate",
            request_serializer=pb.Submit.SerializeToString,
            response_deserializer=pb.Tokens.FromString,
        )

    async def connect(self) -> None:
        """Wait until the server takes calls."""
        await self._channel.channel_ready()

    async def generate(self, prompt: TokenIds, max_new_tokens: int) -> AsyncIterator[Chunk]:
        """Send one request and take its chunks."""
        request = pb.Submit(
            prompt_tokens=prompt.tobytes(), max_new_tokens=max_new_tokens.to_bytes(4, "little")
        )
        async for message in self._generate(request):
            yield Chunk(array("i", message.tokens), message.produced_ns, bool(message.finish_reasons))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()
