"""Authentication: the server's TLS credentials, and the run token that a Generate call must carry.

Health, reflection, GetInfo, GetLoad and GetHost need no run token, so that people can query a worker; with
--tls-ca every client needs a certificate. A Generate call without the right token ends with UNAUTHENTICATED.
"""

import hmac
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from common.flags import FlagError
from common.tls import AUTHORIZATION, Credentials, SecurityFiles, read_credentials, warn_of_readers
from protos.columns import SERVICE
from worker.machine.parent_death import is_replica

logger = logging.getLogger(__name__)

GENERATE = f"/{SERVICE}/Generate"
Request = TypeVar("Request")
Response = TypeVar("Response")


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Checks the run token of each Generate call, and opens ports with TLS; used on the event loop."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        """Create an interceptor; without credentials it requires no token and its ports use plaintext."""
        self._credentials = credentials or Credentials()
        self.num_refused = 0
        """Generate calls refused."""

    @classmethod
    def from_files(cls, files: SecurityFiles) -> "AuthInterceptor":
        """Read and check the certificate, key and token files.

        Raises:
            ValueError: Names the flag, the file and the error.
        """
        credentials = read_credentials(files, ssl.Purpose.SERVER_AUTH)
        if not is_replica():
            # A node warns once for its replicas.
            warn_of_readers(files)
        if credentials.ca is not None and credentials.cert is None:
            pair = f"{files.flag('tls-cert')} and {files.flag('tls-key')}"
            raise FlagError(files.flag("tls-ca"), f"client certificates need TLS: {pair} are missing")
        return cls(credentials)

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Add a listening port at host:port to a server and return the port.

        Raises:
            RuntimeError: gRPC cannot bind the address.
        """
        own = self._credentials
        if own.cert is None or own.key is None:
            return server.add_insecure_port(address)
        credentials = grpc.ssl_server_credentials(
            [(own.key, own.cert)], own.ca, require_client_auth=own.ca is not None
        )
        return server.add_secure_port(address, credentials)

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Request, Response] | None"]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Request, Response] | None":
        """Refuse a Generate call with a missing or wrong token before it reaches the servicer."""
        call = handler_call_details
        tokens = [str(value) for key, value in call.invocation_metadata or () if key == AUTHORIZATION]
        reason = self._refusal(tokens) if call.method == GENERATE else None
        if reason is None:
            return await continuation(call)
        self.num_refused += 1
        return _refusing(reason)

    def _refusal(self, tokens: list[str]) -> str | None:
        """Return why the call is refused, or None; the reason never contains a token."""
        bearer = self._credentials.bearer
        if bearer is None:
            return "this worker has no run token" if tokens else None
        if not tokens:
            return "no run token: --run-token-file is missing"
        same = hmac.compare_digest(" ".join(tokens).encode(), bearer.encode())
        return None if same else "wrong run token"


def _refusing(reason: str) -> "grpc.RpcMethodHandler[Request, Response]":
    async def refuse(_: object, context: "grpc.aio.ServicerContext[Request, Response]") -> None:
        logger.warning("refused %s: %s", context.peer(), reason)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, reason)

    return grpc.stream_stream_rpc_method_handler(refuse)
