"""The gRPC port of a worker or a node: the Worker service, health and reflection."""

import contextlib
import logging
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from common.flags import FlagError
from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS, SERVICE
from worker.auth import AuthInterceptor
from worker.config import BadInput, WorkerConfig

logger = logging.getLogger(__name__)

# Time for RPCs in flight to finish when the server stops.
STOP_GRACE_S = 1.0


@contextlib.asynccontextmanager
async def listening(
    config: WorkerConfig,
    auth: AuthInterceptor,
    servicer: rpc.WorkerServicer,
    health_servicer: health.aio.HealthServicer,
) -> AsyncIterator[None]:
    """Serve the Worker service, health and reflection at the configured address inside a `with` block.

    Raises:
        BadInput: The address cannot be bound.
    """
    server = grpc.aio.server(interceptors=[auth], options=CHANNEL_OPTIONS)
    rpc.add_WorkerServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    # gRPC needs brackets around an IPv6 address; --host accepts it with and without.
    host = f"[{config.host}]" if ":" in config.host and config.host[0] != "[" else config.host
    address = f"{host}:{config.port}"
    try:
        auth.add_port(server, address)
    except RuntimeError as error:
        raise BadInput(FlagError("--port", f"cannot listen on {address}, is it in use?")) from error
    await server.start()
    logger.info("listening on %s", address)
    try:
        yield
    finally:
        await server.stop(STOP_GRACE_S)
