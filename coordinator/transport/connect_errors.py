"""Why a worker's door stays shut: what gRPC calls UNAVAILABLE, told apart over a connection of our own."""

import asyncio
import ssl

from coordinator.transport.access import Access

DIAGNOSIS_TIMEOUT_S = 3.0
# A worker that stops may hang up on us once.
RETRY_S = 0.2
# Head of an HTTP/2 frame: length, type, flags, stream. A gRPC server begins with SETTINGS, unasked.
FRAME_HEAD_BYTES = 9
FRAME_TYPE = 3
SETTINGS = 4

CERTIFICATE_MISSING = "the worker asks for a client certificate: --tls-cert and --tls-key are missing"


async def diagnose(address: str, access: Access) -> str | None:
    """Find out why gRPC does not reach a worker.

    Args:
        address: host:port.
        access: How we reach workers.

    Returns:
        One line, where neither side will change by itself; None where waiting may help: connection refused,
        no answer within 3 s, a name that is not there yet, or a worker that is well.
    """
    try:
        async with asyncio.timeout(DIAGNOSIS_TIMEOUT_S):
            if access.context is None:
                return await _diagnose_plaintext(address)
            return await _diagnose_tls(address, access, access.context)
    except (OSError, TimeoutError, ValueError):
        # ValueError: a name that no resolver takes.
        return None


async def _diagnose_plaintext(address: str) -> str | None:
    """Try TLS, whoever the worker is: a handshake that gets anywhere tells."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        await _first_frame(address, context)
    except ssl.SSLError as error:
        if not _is_alert(error):
            return None
    return "the worker speaks TLS: --tls-ca is missing"


async def _diagnose_tls(address: str, access: Access, context: ssl.SSLContext) -> str | None:
    refused = CERTIFICATE_MISSING
    if access.shows_certificate:
        refused = "the worker refuses our client certificate (--tls-cert)"
    try:
        for _ in range(2):
            if await _first_frame(address, context):
                return None
            await asyncio.sleep(RETRY_S)
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not accepted: {error.verify_message.rstrip('.')} (--tls-ca)"
    except ssl.SSLError as error:
        if _is_alert(error):
            return f"the worker refuses the TLS handshake: {error.reason}"
        frame = await _first_frame(address, None)
        plaintext = len(frame) > FRAME_TYPE and frame[FRAME_TYPE] == SETTINGS
        return "--tls-ca is given, but the worker speaks plaintext" if plaintext else None
    # In TLS 1.3 our handshake is done before the worker looks at our certificate, and gRPC sends no alert.
    return refused


def _is_alert(error: ssl.SSLError) -> bool:
    """Whether the other side speaks TLS and has said no."""
    return "ALERT" in (error.reason or "")


async def _first_frame(address: str, context: ssl.SSLContext | None) -> bytes:
    """Connect and read the head of the first frame; empty: the worker hung up.

    Nothing is written: a reset for what the worker did not read would overtake its alert.

    Raises:
        ssl.SSLError: The handshake failed.
        OSError: No connection.
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
