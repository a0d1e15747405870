"""What both ends of a stream read and check alike: TLS files, and the run token that a run must show."""

import base64
import contextlib
import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common.flags import FlagError

# Call metadata that carries the token: "Bearer <token>".
AUTHORIZATION = "authorization"
MIN_TOKEN_LEN = 16
MAX_TOKEN_LEN = 1024
# Object identifiers of Ed25519 and Ed448, which OpenSSL speaks and gRPC's BoringSSL does not.
EDWARDS_KEYS = (b"\x2b\x65\x70", b"\x2b\x65\x71")


class SecurityFiles(NamedTuple):
    """Files as the flags of either side name them; all absent: plaintext, no token."""

    tls_ca: Path | None = None
    """PEM: who must have signed the peer's certificate."""
    tls_cert: Path | None = None
    """PEM: own certificate, with its intermediates."""
    tls_key: Path | None = None
    """PEM: private key of own certificate, not encrypted."""
    run_token_file: Path | None = None
    """One line, the secret that coordinator and workers share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What the files hold, checked."""

    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    bearer: str | None = field(default=None, repr=False)
    """Value of AUTHORIZATION."""


def read_credentials(files: SecurityFiles, purpose: ssl.Purpose) -> Credentials:
    """Read and check the files.

    Args:
        files: As the flags name them.
        purpose: What own certificate is shown for: SERVER_AUTH at a worker, CLIENT_AUTH at a coordinator.

    Raises:
        FlagError: Names flag, file and what is wrong with it; never a secret.
    """
    if (files.tls_cert is None) != (files.tls_key is None):
        given, missing = ("cert", "key") if files.tls_key is None else ("key", "cert")
        raise FlagError(f"--tls-{given}", f"needs --tls-{missing} too")
    credentials = Credentials(
        ca=_read("--tls-ca", files.tls_ca),
        cert=_read("--tls-cert", files.tls_cert),
        key=_read("--tls-key", files.tls_key),
        bearer=None if files.run_token_file is None else f"Bearer {_read_token(files.run_token_file)}",
    )
    if files.tls_ca is not None:
        load_ca(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "--tls-ca", files.tls_ca)
    if files.tls_cert is not None and files.tls_key is not None:
        _rehearse(files.tls_cert, files.tls_key, purpose)
    return credentials


def load_ca(context: ssl.SSLContext, flag: str, path: Path) -> None:
    """Trust the certificates of a file, intermediates and leaves too, as gRPC does.

    Raises:
        FlagError: Names flag and file: it cannot be read, or holds no certificate.
    """
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise FlagError(flag, f"{path} holds no PEM certificate") from error
    except OSError as error:
        raise FlagError(flag, f"{path}: {error.strerror}") from error


def load_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Show a certificate.

    Raises:
        FlagError: Names flag and file: no private key, an encrypted one, or that of another certificate.
    """

    def refuse_password() -> str:
        raise FlagError("--tls-key", f"{key} is encrypted")

    try:
        context.load_cert_chain(cert, key, password=refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise FlagError("--tls-key", f"{key} is not the key of {cert}") from error
        if error.reason is not None:
            raise FlagError("--tls-cert", f"{cert} cannot be used: {error.reason}") from error
        raise FlagError("--tls-key", f"{key} holds no PEM private key") from error
    except OSError as error:
        raise FlagError("--tls-key", f"{key} or {cert}: {error.strerror}") from error


def _read(flag: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise FlagError(flag, f"{path}: {error.strerror}") from error


def _check_kind(key: Path) -> None:
    """Check that gRPC can sign with a private key.

    Raises:
        FlagError: Names flag and file.
    """
    found = re.search(b"-----BEGIN PRIVATE KEY-----(.*?)-----END", key.read_bytes(), re.DOTALL)
    if found and any(kind in base64.b64decode(found[1])[:16] for kind in EDWARDS_KEYS):
        raise FlagError(
            "--tls-key", f"{key} is an Ed25519 or Ed448 key, which gRPC does not speak; use P-256"
        )


def _read_token(path: Path) -> str:
    text = (_read("--run-token-file", path) or b"").decode("ascii", "replace").strip()
    if not MIN_TOKEN_LEN <= len(text) <= MAX_TOKEN_LEN:
        reason = f"{path} holds {len(text)} characters, not {MIN_TOKEN_LEN} to {MAX_TOKEN_LEN}"
        raise FlagError("--run-token-file", reason)
    if not re.fullmatch("[!-~]+", text):
        raise FlagError("--run-token-file", f"{path} is not one line of printable ASCII without spaces")
    return text


def _rehearse(cert: Path, key: Path, purpose: ssl.Purpose) -> None:
    """Shake hands with ourselves in memory: what the peer would refuse later is refused here.

    Raises:
        FlagError: The pair does not load, or the certificate is expired or not for this purpose.
    """
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    verifying = client if purpose is ssl.Purpose.SERVER_AUTH else server
    load_ca(verifying, "--tls-cert", cert)
    verifying.verify_mode = ssl.CERT_REQUIRED
    for context in (client, server):
        load_pair(context, cert, key)
    _check_kind(key)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    try:
        # Hello and answer; the client's word on the answer, and the server's on that.
        for end in (*ends, *ends):
            _shake(end)
    except ssl.SSLCertVerificationError as error:
        raise FlagError("--tls-cert", f"{cert}: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise FlagError("--tls-cert", f"{cert} cannot be used: {error}") from error


def _shake(end: ssl.SSLObject) -> None:
    """Take one end of a handshake as far as it goes without the other."""
    with contextlib.suppress(ssl.SSLWantReadError):
        end.do_handshake()
