"""Open a port: the Worker service, health and reflection behind one door."""

import logging

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS, SERVICE
from worker.auth import Door
from worker.config import BadInput, WorkerConfig

logger = logging.getLogger(__name__)


async def listen(
    config: WorkerConfig, door: Door, servicer: rpc.WorkerServicer, health_servicer: health.aio.HealthServicer
) -> grpc.aio.Server:
    """Start a server at the configured address.

    Raises:
        BadInput: The port cannot be had.
    """
    server = grpc.aio.server(interceptors=[door], options=CHANNEL_OPTIONS)
    rpc.add_WorkerServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    # gRPC wants brackets around an IPv6 address; --host takes it with and without.
    host = f"[{config.host}]" if ":" in config.host and config.host[0] != "[" else config.host
    address = f"{host}:{config.port}"
    try:
        door.add_port(server, address)
    except RuntimeError as error:
        raise BadInput(f"--port: cannot listen on {address}, is it in use?") from error
    await server.start()
    logger.info("listening on %s", address)
    return server
