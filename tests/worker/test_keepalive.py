"""How often a client may send keepalive pings."""

import asyncio
import time

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from protos.columns import CHANNEL_OPTIONS
from worker.listener import server_options

# docs/faults.md gives these bounds.
MIN_INTERVAL_MS, OWN_INTERVAL_MS = 20_000, 30_000


async def watch_with_keepalive(interval_ms: int) -> grpc.aio.AioRpcError:
    """Watch the health of a server on which nothing changes; returns the error that ends the call."""
    server = grpc.aio.server(options=server_options(1))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    options = [("grpc.keepalive_time_ms", interval_ms), ("grpc.http2.max_pings_without_data", 0)]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in call:
                    pass
        return caught.value
    finally:
        await server.stop(0)


def test_a_client_that_pings_too_often_is_disconnected() -> None:
    """The third ping at intervals of 1 s ends the connection; the product's own interval is longer."""
    started_s = time.monotonic()
    error = asyncio.run(asyncio.wait_for(watch_with_keepalive(1_000), 60))
    assert (grpc.StatusCode.UNAVAILABLE, "Too many pings") == (error.code(), error.details())
    assert 2 < time.monotonic() - started_s
    options = dict(CHANNEL_OPTIONS)
    assert MIN_INTERVAL_MS == options["grpc.http2.min_ping_interval_without_data_ms"]
    assert OWN_INTERVAL_MS == options["grpc.keepalive_time_ms"]
