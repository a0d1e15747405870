"""The gRPC port of a worker or a node: the Worker service, health and reflection."""

import contextlib
import logging
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from common.flags import FlagError
from common.open_files import open_file_limit
from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS, SERVICE
from worker.auth import AuthInterceptor
from worker.config import BadInput, WorkerConfig
from worker.listen_addresses import listen_addresses

logger = logging.getLogger(__name__)

# Time for RPCs in flight to finish when the server stops.
STOP_GRACE_S = 1.0
# A connection is closed if its TLS handshake or HTTP/2 settings do not arrive in time.
HANDSHAKE_TIMEOUT_MS = 10_000
# A connection without calls is closed; its client connects again for its next call. While a coordinator waits
# for other workers, by default for up to 900 s, it makes no calls.
MAX_IDLE_MS = 1_800_000
# An idle connection takes 12 to 16 KB of memory (measured on grpcio 1.85.3, without TLS).
MAX_CONNECTIONS = 8192
# A client needs one call at a time, or a few. gRPC keeps counting some calls that ended on a malformed
# message: fuzzing with 100,000 of them on one connection used up 100 calls.
MAX_CALLS_PER_CONNECTION = 1000


def server_options(num_addresses: int) -> list[tuple[str, int]]:
    """Return the options of a server that clients without credentials cannot exhaust.

    At most half of the open files may be connections; the rest remains for the engine.

    Args:
        num_addresses: Addresses that the server listens on; gRPC limits the connections of each.
    """
    num_connections = min(MAX_CONNECTIONS, open_file_limit() // 2)
    return [
        *CHANNEL_OPTIONS,
        ("grpc.max_allowed_incoming_connections", max(num_connections // num_addresses, 1)),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_TIMEOUT_MS),
        ("grpc.http2.settings_timeout", HANDSHAKE_TIMEOUT_MS),
        ("grpc.max_connection_idle_ms", MAX_IDLE_MS),
        ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
    ]


@contextlib.asynccontextmanager
async def listening(
    config: WorkerConfig,
    auth: AuthInterceptor,
    servicer: rpc.WorkerServicer,
    health_servicer: health.aio.HealthServicer,
) -> AsyncIterator[None]:
    """Serve the Worker service, health and reflection at the configured address inside a `with` block.

    Raises:
        BadInput: An address of --host cannot be bound.
    """
    try:
        addresses = listen_addresses(config.host, config.port)
    except FlagError as error:
        raise BadInput(error) from error
    server = grpc.aio.server(interceptors=[auth], options=server_options(len(addresses)))
    rpc.add_WorkerServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    for address in addresses:
        try:
            auth.add_port(server, address)
        except RuntimeError as error:
            raise BadInput(FlagError("--port", f"cannot listen on {address}, is it in use?")) from error
    await server.start()
    logger.info("listening on %s", ", ".join(addresses))
    try:
        yield
    finally:
        await server.stop(STOP_GRACE_S)
