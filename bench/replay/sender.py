"""A process that serves recorded frames as a worker does, over gRPC."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from protos import worker_pb2 as pb
from protos.columns import CHANNEL_OPTIONS, SERVICE

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0


@contextmanager
def sending(frames: list[bytes]) -> Iterator[str]:
    """Serve the frames for a block: each Generate call gets all of them; yields the address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(frames, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(START_TIMEOUT_S):
            raise TimeoutError(f"the sender does not listen within {START_TIMEOUT_S:g} s")
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        process.kill()
        process.join(STOP_TIMEOUT_S)


def _serve(frames: list[bytes], told: Any) -> None:
    asyncio.run(_serve_forever(frames, told))


async def _serve_forever(frames: list[bytes], told: Any) -> None:
    async def generate(requests: AsyncIterator[pb.ToWorker], context: Any) -> None:
        opening = (await anext(requests)).open
        await context.write(pb.FromWorker(opened=pb.Opened(run_id=opening.run_id)).SerializeToString())
        for frame in frames:
            await context.write(frame)
        async for _ in requests:
            pass

    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    handler: Any = grpc.stream_stream_rpc_method_handler(generate, pb.ToWorker.FromString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Generate": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    told.send(port)
    await server.wait_for_termination()
