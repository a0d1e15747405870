"""The port of a metrics endpoint: bound before anything else begins, with TLS if the flags ask for it."""

import errno
import socket
import ssl
from pathlib import Path

from common.flags import FlagError
from common.tls import load_ca, load_pair


def bind_metrics_port(host: str, port: int) -> socket.socket:
    """Bind and listen; connections wait until a `MetricsEndpoint` serves the socket.

    Raises:
        FlagError: The address is unknown, not of this machine, or in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise FlagError("--metrics-host", f"{host!r} cannot be resolved") from error
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen()
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise FlagError("--metrics-host", f"{host} is not an address of this machine") from error
        reason = "is it in use?" if error.errno == errno.EADDRINUSE else error.strerror
        raise FlagError("--metrics-port", f"cannot listen on {host}:{port}, {reason}") from error
    return sock


def server_context(cert: Path | None, key: Path | None, ca: Path | None = None) -> ssl.SSLContext | None:
    """Return TLS with this certificate, or None without one; with a CA, clients need a certificate of it.

    Raises:
        FlagError: A file cannot be used.
    """
    if cert is None or key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pair(context, cert, key)
    if ca is not None:
        load_ca(context, "--tls-ca", ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
