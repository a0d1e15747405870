"""TLS files and run token files: read and checked in the same way by coordinator and worker."""

import base64
import contextlib
import logging
import re
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

from common.bounded_file import read_bounded
from common.flags import Flag, FlagError, Flags
from common.named_refusals import naming_flags

logger = logging.getLogger(__name__)

# Key of the call metadata that holds the token: "Bearer <token>".
AUTHORIZATION = "authorization"
MIN_TOKEN_LEN = 16
MAX_TOKEN_LEN = 1024
# Object identifiers of Ed25519 and Ed448, which OpenSSL supports and gRPC's BoringSSL does not.
EDWARDS_KEYS = (b"\x2b\x65\x70", b"\x2b\x65\x71")


class SecurityFiles(NamedTuple):
    """Files that the flags name; without any of them: plaintext, no token."""

    tls_ca: Path | None = None
    """PEM: certificates that the peer's certificate must be signed by."""
    tls_cert: Path | None = None
    """PEM: this side's certificate, with its intermediates."""
    tls_key: Path | None = None
    """PEM: private key of that certificate, not encrypted."""
    run_token_file: Path | None = None
    """One line: the secret that coordinator and workers share."""
    flag_prefix: str = "--"
    """What the names of the flags begin with."""

    def flag(self, name: str) -> str:
        """Return a flag's name as the user types it."""
        return f"{self.flag_prefix}{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAccessFlags(Flags):
    """Flags of a program that calls workers: base of its configuration."""

    tls_ca: Annotated[Path | None, Flag("CA that signed the workers' certificates (PEM); enables TLS")] = None
    tls_cert: Annotated[
        Path | None, Flag("client certificate for workers that require one (PEM); needs --tls-key")
    ] = None
    tls_key: Annotated[Path | None, Flag("private key of --tls-cert (PEM, not encrypted)")] = None
    run_token_file: Annotated[Path | None, Flag("file with the run token that the workers require")] = None

    @property
    def security_files(self) -> SecurityFiles:
        """The files that these flags name."""
        return SecurityFiles(self.tls_ca, self.tls_cert, self.tls_key, self.run_token_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Contents of the files, checked."""

    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    bearer: str | None = field(default=None, repr=False)
    """Value of AUTHORIZATION."""


def read_credentials(files: SecurityFiles, purpose: ssl.Purpose) -> Credentials:
    """Read and check the files.

    Args:
        files: The files that the flags name.
        purpose: Use of this side's certificate, as `ssl` calls it: SERVER_AUTH on a worker, CLIENT_AUTH on a
            coordinator.

    Raises:
        FlagError: Names flag, file and error; never a secret.
    """
    if (files.tls_cert is None) != (files.tls_key is None):
        given, missing = ("cert", "key") if files.tls_key is None else ("key", "cert")
        raise FlagError(files.flag(f"tls-{given}"), f"needs {files.flag(f'tls-{missing}')} too")
    credentials = Credentials(
        ca=_read(files.flag("tls-ca"), files.tls_ca),
        cert=_read(files.flag("tls-cert"), files.tls_cert),
        key=_read(files.flag("tls-key"), files.tls_key),
        bearer=_read_bearer(files),
    )
    if files.tls_ca is not None:
        load_ca(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files.flag("tls-ca"), files.tls_ca)
    if files.tls_cert is not None and files.tls_key is not None:
        with naming_flags({f"--{name}": files.flag(name) for name in ("tls-cert", "tls-key")}):
            _check_handshake(files.tls_cert, files.tls_key, purpose)
    return credentials


def warn_of_readers(files: SecurityFiles) -> None:
    """Log a warning for each secret that every user of this machine can read."""
    for name, path in (("tls-key", files.tls_key), ("run-token-file", files.run_token_file)):
        if path is not None and path.exists() and (mode := path.stat().st_mode) & stat.S_IROTH:
            shown = f"{stat.S_IMODE(mode):04o}"
            flag = files.flag(name)
            logger.warning("%s: every user can read %s (mode %s): chmod 600 %s", flag, path, shown, path)


def load_ca(context: ssl.SSLContext, flag: str, path: Path) -> None:
    """Trust the certificates of a file, including intermediates and leaves, as gRPC does.

    Raises:
        FlagError: The file cannot be read, or holds no certificate.
    """
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise FlagError(flag, f"{path} holds no PEM certificate") from error
    except OSError as error:
        raise FlagError(flag, f"{path}: {error.strerror}") from error


def load_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Load a certificate and its private key.

    Raises:
        FlagError: The file holds no private key, an encrypted one, or the key of another certificate.
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
        return read_bounded(path)
    except OSError as error:
        raise FlagError(flag, f"{path}: {error.strerror}") from error


def _check_kind(key: Path) -> None:
    """Check that gRPC can sign with a private key.

    Raises:
        FlagError: The key is of a kind that gRPC does not support.
    """
    found = re.search(b"-----BEGIN PRIVATE KEY-----(.*?)-----END", read_bounded(key), re.DOTALL)
    if found and any(kind in base64.b64decode(found[1])[:16] for kind in EDWARDS_KEYS):
        raise FlagError(
            "--tls-key", f"{key} is an Ed25519 or Ed448 key, which gRPC does not support; use P-256"
        )


def _read_bearer(files: SecurityFiles) -> str | None:
    flag, path = files.flag("run-token-file"), files.run_token_file
    if path is None:
        return None
    text = (_read(flag, path) or b"").decode("ascii", "replace").strip()
    if not MIN_TOKEN_LEN <= len(text) <= MAX_TOKEN_LEN:
        reason = f"{path} holds {len(text)} characters, not {MIN_TOKEN_LEN} to {MAX_TOKEN_LEN}"
        raise FlagError(flag, reason)
    if not re.fullmatch("[!-~]+", text):
        raise FlagError(flag, f"{path} is not one line of printable ASCII without spaces")
    return f"Bearer {text}"


def _check_handshake(cert: Path, key: Path, purpose: ssl.Purpose) -> None:
    """Perform a handshake in memory, so that a pair which the peer would refuse is refused at start.

    Raises:
        FlagError: The pair does not load, or the certificate has expired or does not allow this use.
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
        # Two messages of each side, in turn.
        for end in (*ends, *ends):
            _advance(end)
    except ssl.SSLCertVerificationError as error:
        raise FlagError("--tls-cert", f"{cert}: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise FlagError("--tls-cert", f"{cert} cannot be used: {error}") from error


def _advance(end: ssl.SSLObject) -> None:
    """Advance one end of a handshake until it needs input from the other."""
    with contextlib.suppress(ssl.SSLWantReadError):
        end.do_handshake()
