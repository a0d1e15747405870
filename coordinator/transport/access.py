"""The coordinator's credentials: plaintext or TLS channels, and the run token."""

import ssl
from collections.abc import Sequence

import grpc

from common.connect_errors import ClientTls
from common.flags import FlagError
from common.tls import (
    AUTHORIZATION,
    Credentials,
    SecurityFiles,
    load_ca,
    load_pair,
    read_credentials,
    warn_of_readers,
)


class Access:
    """Credentials for all workers of a fleet."""

    def __init__(self, credentials: Credentials | None = None, context: ssl.SSLContext | None = None) -> None:
        """Create it; without credentials it uses plaintext and sends no token.

        Args:
            credentials: TLS files and token for gRPC.
            context: The same for connections without gRPC (see connect_errors); None: plaintext.
        """
        self._credentials = credentials or Credentials()
        self.client_tls = ClientTls(context, self._credentials.cert is not None)

    @classmethod
    def read(cls, files: SecurityFiles) -> "Access":
        """Read and check the files.

        Raises:
            FlagError: Names flag, file and error.
        """
        credentials = read_credentials(files, ssl.Purpose.CLIENT_AUTH)
        warn_of_readers(files)
        if files.tls_ca is None:
            if credentials.cert is not None:
                reason = f"needs {files.flag('tls-ca')} too: a certificate is only used over TLS"
                raise FlagError(files.flag("tls-cert"), reason)
            return cls(credentials)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["h2"])
        load_ca(context, files.flag("tls-ca"), files.tls_ca)
        if files.tls_cert is not None and files.tls_key is not None:
            load_pair(context, files.tls_cert, files.tls_key)
        return cls(credentials, context)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...] | None:
        """Metadata of a Generate call: the run token, if there is one."""
        bearer = self._credentials.bearer
        return None if bearer is None else ((AUTHORIZATION, bearer),)

    def channel(self, address: str, options: Sequence[tuple[str, int]]) -> grpc.aio.Channel:
        """Create a channel to host:port."""
        if self._credentials.ca is None:
            return grpc.aio.insecure_channel(address, options=options)
        mine = self._credentials
        credentials = grpc.ssl_channel_credentials(mine.ca, mine.key, mine.cert)
        return grpc.aio.secure_channel(address, credentials, options=options)
