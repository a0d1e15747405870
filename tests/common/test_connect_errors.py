"""What is diagnosed of a worker that gRPC does not reach, and what is not: where waiting may help."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from common import connect_errors
from common.connect_errors import diagnose
from common.tls import SecurityFiles
from coordinator.transport.access import Access
from tests import fleet, secure

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
WAIT_S = 60.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write certificates."""
    directory = tmp_path_factory.mktemp("files")
    secure.write_files(directory)
    return directory


@pytest.fixture(params=["plaintext", "TLS"])
def access(request: pytest.FixtureRequest, files: Path) -> Access:
    """Make each kind of access."""
    return Access() if request.param == "plaintext" else Access.read(SecurityFiles(files / "ca.pem"))


def server_context(files: Path) -> ssl.SSLContext:
    """Make a TLS server's context that asks for a client certificate of another CA than ours."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "worker.pem", files / "worker.key")
    context.load_verify_locations(files / "strangers.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def refuse_one(listening: socket.socket, context: ssl.SSLContext) -> None:
    """Refuse one connection, by a TLS alert; asyncio's own servers send none."""
    listening.settimeout(WAIT_S)
    connection, _ = listening.accept()
    with connection, pytest.raises(ssl.SSLError):
        connection.settimeout(WAIT_S)
        context.wrap_socket(connection, server_side=True)


def diagnosis(access: Access, serve: Serve, context: ssl.SSLContext | None = None) -> str | None:
    """Diagnose a server that treats each connection with `serve`, within WAIT_S."""
    served: list[asyncio.Future[None]] = []

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.ensure_future(serve(reader, writer)))

    async def bounded() -> str | None:
        async with asyncio.timeout(WAIT_S):
            server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=context)
            port = server.sockets[0].getsockname()[1]
            try:
                return await diagnose(f"127.0.0.1:{port}", access.client_tls)
            finally:
                server.close()
                await asyncio.gather(*served, return_exceptions=True)

    return asyncio.run(bounded())


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End the connection at once."""
    writer.close()


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer what is neither TLS nor HTTP/2."""
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await reader.read()
    writer.close()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read until the other side gives up."""
    await reader.read()
    writer.close()


@pytest.mark.parametrize("serve", [hang_up, babble, say_nothing])
def test_stranger_is_no_diagnosis(access: Access, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hangs up, babbles or is silent is not said to be a worker of another kind."""
    monkeypatch.setattr(connect_errors, "DIAGNOSIS_TIMEOUT_S", 1.0)  # all of it passes where nothing is said
    assert diagnosis(access, serve) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "no-such-host.invalid", "a..b", ".dot"])
def test_nobody_is_no_diagnosis(access: Access, host: str) -> None:
    """Where nobody listens, or the name is not there or none at all, waiting may help."""
    assert asyncio.run(diagnose(f"{host}:{fleet.free_port()}", access.client_tls)) is None


@pytest.mark.parametrize(
    ("pair", "alert"),
    [((), "TLSV13_ALERT_CERTIFICATE_REQUIRED"), (("client.pem", "client.key"), "TLSV1_ALERT_UNKNOWN_CA")],
)
def test_alert_is_told_in_its_own_words(files: Path, pair: tuple[str, ...], alert: str) -> None:
    """A server that refuses our certificate by a TLS alert, as gRPC does not, is quoted."""
    access = Access.read(SecurityFiles(files / "ca.pem", *(files / name for name in pair)))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        refusing = threading.Thread(target=refuse_one, args=(listening, server_context(files)))
        refusing.start()
        told = asyncio.run(diagnose(f"127.0.0.1:{listening.getsockname()[1]}", access.client_tls))
        refusing.join(WAIT_S)
    assert f"the worker refuses the TLS handshake: {alert}" == told


def test_plaintext_coordinator_is_told_of_any_TLS(files: Path) -> None:  # noqa: N802
    """A server is known to speak TLS also where it asks for a certificate and we have none."""
    told = diagnosis(Access(), say_nothing, server_context(files))
    assert "the worker speaks TLS: --tls-ca is missing" == told


def test_hanging_up_once_is_no_diagnosis(files: Path) -> None:
    """A worker that hung up on us as it stopped, and answers the next time, has not refused us."""
    greetings = iter([b"", bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))])  # the second is an empty SETTINGS frame

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(next(greetings))
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "worker.pem", files / "worker.key")
    assert diagnosis(Access.read(SecurityFiles(files / "ca.pem")), greet, context) is None
    assert [] == list(greetings)
