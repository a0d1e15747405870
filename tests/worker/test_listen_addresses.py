"""A worker listens on every address of --host, or on none."""

import asyncio
import contextlib
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from common.flags import FlagError
from tests import fleet
from tests.worker.asks import run
from tests.worker.test_bad_flags import has_ipv6
from worker import listen_addresses as module
from worker.config import BadInput, WorkerConfig
from worker.engines.scripted.counting import CountingConfig, CountingEngine
from worker.listen_addresses import listen_addresses
from worker.server import Server

needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine's loopback has no IPv6")
IPV4, IPV6 = socket.AF_INET, socket.AF_INET6


@contextlib.contextmanager
def occupied(address: str) -> Iterator[int]:
    """Listen at one address, only for its own protocol, at a port that is free at the others too."""
    port = fleet.free_port()
    with socket.create_server((address, port), family=IPV6 if ":" in address else IPV4):
        yield port


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let the name node1 have these addresses."""
    real = socket.getaddrinfo

    def resolve(host: str, port: int, *others: Any, **flags: Any) -> Any:
        found = addresses if host == "node1" else [host]
        return [info for address in found for info in real(address, port, *others, **flags)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@needs_ipv6
@pytest.mark.parametrize(
    ("host", "taken", "named"),
    [
        ("localhost", "::1", "[::1]"),
        ("localhost", "127.0.0.1", "127.0.0.1"),
        ("::", "127.0.0.1", "[::]"),
        ("::", "::1", "[::]"),
        ("[::]", "::1", "[::]"),
        ("0.0.0.0", "127.0.0.1", "0.0.0.0"),
        ("node1", "127.0.0.1", "127.0.0.1"),
        ("node1", "::1", "[::1]"),
    ],
)
def test_worker_does_not_start_on_a_part_of_its_addresses(
    monkeypatch: pytest.MonkeyPatch, host: str, taken: str, named: str
) -> None:
    """If another process listens on one address, the worker refuses and names it, and listens nowhere."""
    resolving_to(monkeypatch, "127.0.0.1", "::1")
    with occupied(taken) as port:
        server = Server(WorkerConfig(host=host, port=port, insecure=True), CountingEngine(CountingConfig()))
        reason = f"--port: cannot listen on {named}:{port}, is it in use?"
        with pytest.raises(BadInput, match=re.escape(reason)):
            run(server.serve())
    for address in ("127.0.0.1", "::1"):
        with socket.socket(IPV6 if ":" in address else IPV4) as sock:
            assert 0 != sock.connect_ex((address, port))


@needs_ipv6
def test_worker_at_localhost_is_reached_at_both_addresses() -> None:
    """Clients may connect to either address of localhost."""

    async def steps(port: int) -> None:
        server = Server(WorkerConfig(host="localhost", port=port), CountingEngine(CountingConfig()))
        ended = asyncio.ensure_future(server.serve())
        await asyncio.wait_for(server.serving.wait(), 60)
        for address in ("127.0.0.1", "::1"):
            _, writer = await asyncio.open_connection(address, port)
            writer.close()
        server.stop()
        await ended

    run(steps(fleet.free_port()))


def test_address_of_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that also has an address of another machine (RFC 5737) is refused; the line names both."""
    resolving_to(monkeypatch, "127.0.0.1", "192.0.2.7")
    with pytest.raises(
        FlagError, match=r"^--host: node1 is 192\.0\.2\.7, which is not an address of this machine$"
    ):
        listen_addresses("node1", fleet.free_port())


def test_name_that_is_unknown_is_refused() -> None:
    """The line names the flag and the name."""
    with pytest.raises(FlagError, match=r"^--host: 'no-such-host\.invalid' cannot be resolved: "):
        listen_addresses("no-such-host.invalid", 50051)


def test_port_that_needs_root_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is that of the system, not that the port is in use."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(FlagError, match=r"^--port: cannot listen on 127\.0\.0\.1:443: Permission denied$"):
        listen_addresses("127.0.0.1", 443)


def test_protocol_that_is_disabled_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where IPv6 is disabled, ::1 cannot be bound; localhost is then 127.0.0.1 alone, and ::1 is refused."""
    real = socket.socket.bind

    def bind(sock: socket.socket, address: Any) -> None:
        if sock.family is IPV6:
            raise OSError(99, "Cannot assign requested address")
        real(sock, address)

    monkeypatch.setattr(module.socket.socket, "bind", bind)
    port = fleet.free_port()
    assert [f"127.0.0.1:{port}"] == listen_addresses("localhost", port)
    with pytest.raises(FlagError, match=r"^--host: ::1 is not an address of this machine$"):
        listen_addresses("::1", port)
