"""A worker that sends a test's raw bytes on its stream and is correct in everything else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos import worker_pb2 as pb
from protos.columns import CHANNEL_OPTIONS, SERVICE
from protos.hashes import run_hash

Play = Callable[["Call"], Awaitable[None]]


class Call:
    """The worker's end of one Generate call after its `opened`."""

    def __init__(self, requests: AsyncIterator[pb.ToWorker], context: Any) -> None:
        """Wrap the call."""
        self.requests, self._context = requests, context

    async def say(self, frame: bytes) -> None:
        """Send one message unchanged; ignored once the call has ended."""
        with contextlib.suppress(grpc.aio.InternalError, asyncio.InvalidStateError):
            await self._context.write(frame)


class Garbler:
    """The Worker service with raw bytes as stream responses."""

    def __init__(self, info: pb.WorkerInfo, play: Play) -> None:
        """Create it.

        Args:
            info: What it claims to be.
            play: Its part in each run; the call ends with it.
        """
        self._info, self._play = info, play
        handlers = {
            "Generate": grpc.stream_stream_rpc_method_handler(
                self._generate, request_deserializer=pb.ToWorker.FromString, response_serializer=None
            ),
            "GetInfo": grpc.unary_unary_rpc_method_handler(
                self._get_info, pb.GetInfoRequest.FromString, pb.WorkerInfo.SerializeToString
            ),
        }
        self._service = grpc.method_handlers_generic_handler(SERVICE, handlers)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve on a free port for the length of a block; yields the address."""
        server = grpc.aio.server(options=CHANNEL_OPTIONS)
        server.add_generic_rpc_handlers((self._service,))
        servicer = health.aio.HealthServicer()
        await servicer.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(grace=None)

    async def _get_info(self, request: pb.GetInfoRequest, context: Any) -> pb.WorkerInfo:
        return self._info

    async def _generate(self, requests: AsyncIterator[pb.ToWorker], context: Any) -> None:
        opening = (await anext(requests)).open
        answer = pb.Opened(
            info=self._info, spec_hash=run_hash(opening.spec, self._info), run_id=opening.run_id
        )
        await context.write(pb.FromWorker(opened=answer).SerializeToString())
        await self._play(Call(requests, context))
