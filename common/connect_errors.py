"""Explain gRPC's UNAVAILABLE: connect with a plain or TLS socket and report the cause of the failure."""

import asyncio
import errno
import ssl
from typing import NamedTuple

DIAGNOSIS_TIMEOUT_S = 3.0
# A worker that is stopping may close the first connection.
RETRY_S = 0.2
# Header of an HTTP/2 frame: length, type, flags, stream. A gRPC server sends SETTINGS first.
FRAME_HEAD_BYTES = 9
FRAME_TYPE = 3
SETTINGS = 4


class ClientTls(NamedTuple):
    """How a client connects, and the names of its settings for the user."""

    context: ssl.SSLContext | None
    """None: plaintext."""
    shows_certificate: bool
    ca: str = "--tls-ca"
    cert: str = "--tls-cert"
    key: str = "--tls-key"


async def diagnose(address: str, client: ClientTls) -> str | None:
    """Return why gRPC cannot connect to a worker.

    Args:
        address: host:port.
        client: The credentials of the client that cannot connect.

    Returns:
        One line if the cause is in the settings of either side, or this process can open no more files; None
        if waiting may help: connection refused, no answer within 3 s, a name that does not resolve yet, or no
        error.
    """
    try:
        async with asyncio.timeout(DIAGNOSIS_TIMEOUT_S):
            if client.context is None:
                return await _diagnose_plaintext(address, client)
            return await _diagnose_tls(address, client, client.context)
    except OSError as error:
        # A limit of this process or machine; the other errors may be gone at the next attempt.
        return error.strerror if error.errno in (errno.EMFILE, errno.ENFILE) else None
    except (TimeoutError, ValueError):
        # ValueError: the host name is malformed.
        return None


async def _diagnose_plaintext(address: str, client: ClientTls) -> str | None:
    """Try a TLS handshake without verification: if the worker responds in TLS, the CA is missing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        await _first_frame(address, context)
    except ssl.SSLError as error:
        if not _is_alert(error):
            return None
    return f"the worker speaks TLS: {client.ca} is missing"


async def _diagnose_tls(address: str, client: ClientTls, context: ssl.SSLContext) -> str | None:
    refused = f"the worker requires a client certificate: {client.cert} and {client.key} are missing"
    if client.shows_certificate:
        refused = f"the worker refuses our client certificate ({client.cert})"
    try:
        for _ in range(2):
            if await _first_frame(address, context):
                return None
            await asyncio.sleep(RETRY_S)
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')} ({client.ca})"
    except ssl.SSLError as error:
        if _is_alert(error):
            return f"the worker refuses the TLS handshake: {error.reason}"
        frame = await _first_frame(address, None)
        plaintext = len(frame) > FRAME_TYPE and frame[FRAME_TYPE] == SETTINGS
        return f"{client.ca} is given, but the worker speaks plaintext" if plaintext else None
    # In TLS 1.3 our handshake ends before the worker verifies our certificate, and gRPC sends no alert.
    return refused


def _is_alert(error: ssl.SSLError) -> bool:
    """Return whether the error is a TLS alert from the peer."""
    return "ALERT" in (error.reason or "")


async def _first_frame(address: str, context: ssl.SSLContext | None) -> bytes:
    """Connect and read the header of the first frame; empty if the worker closed the connection.

    Writes nothing: unread data would make the worker's kernel send a reset, which can discard its alert.

    Raises:
        ssl.SSLError: The handshake failed.
        OSError: The connection failed.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    name = None if context is None else host
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=name)
    try:
        return await reader.read(FRAME_HEAD_BYTES)
    except ConnectionResetError:
        return b""
    finally:
        writer.transport.abort()
