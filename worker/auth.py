"""Who may enter: the port's TLS, and the run token that a run must show.

Health, reflection, GetInfo and GetLoad ask for no token, for people; with --tls-ca they ask for a client
certificate as everything does. A run that may not enter ends with UNAUTHENTICATED.
"""

import hmac
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from common.tls import AUTHORIZATION, Credentials, SecurityFiles, read_credentials
from protos.columns import SERVICE

logger = logging.getLogger(__name__)

GENERATE = f"/{SERVICE}/Generate"
Request = TypeVar("Request")
Response = TypeVar("Response")


class Door(grpc.aio.ServerInterceptor):
    """One port; the checks run on the server's event loop."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        """Create a door; without credentials it is open and speaks plaintext."""
        self._credentials = credentials or Credentials()

    @classmethod
    def read(cls, files: SecurityFiles) -> "Door":
        """Read and check the files.

        Raises:
            ValueError: Names flag, file and what is wrong with it.
        """
        credentials = read_credentials(files, ssl.Purpose.SERVER_AUTH)
        if credentials.ca is not None and credentials.cert is None:
            raise ValueError("--tls-ca: asks for client certificates, and needs --tls-cert and --tls-key too")
        return cls(credentials)

    def add_port(self, server: grpc.aio.Server, address: str) -> int:
        """Let a server listen at host:port; returns the port.

        Raises:
            RuntimeError: The port cannot be had.
        """
        mine = self._credentials
        if mine.cert is None or mine.key is None:
            return server.add_insecure_port(address)
        credentials = grpc.ssl_server_credentials(
            [(mine.key, mine.cert)], mine.ca, require_client_auth=mine.ca is not None
        )
        return server.add_secure_port(address, credentials)

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Request, Response] | None"]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Request, Response] | None":
        """Check the token of a call to Generate before the service hears of it."""
        call = handler_call_details
        shown = [str(value) for key, value in call.invocation_metadata or () if key == AUTHORIZATION]
        reason = self._refusal(shown) if call.method == GENERATE else None
        return await continuation(call) if reason is None else _refusing(reason)

    def _refusal(self, shown: list[str]) -> str | None:
        """Say why a call may not enter; the answer never holds a token."""
        bearer = self._credentials.bearer
        if bearer is None:
            return "this worker has no run token" if shown else None
        if not shown:
            return "no run token: --run-token-file is missing"
        same = hmac.compare_digest(" ".join(shown).encode(), bearer.encode())
        return None if same else "wrong run token"


def _refusing(reason: str) -> "grpc.RpcMethodHandler[Request, Response]":
    async def refuse(_: object, context: "grpc.aio.ServicerContext[Request, Response]") -> None:
        logger.warning("refused %s: %s", context.peer(), reason)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, reason)

    return grpc.stream_stream_rpc_method_handler(refuse)
