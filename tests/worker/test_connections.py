"""Connections that do nothing do not lock a worker out, and those that wait for something are kept."""

import asyncio
import contextlib
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.open_files import WANTED_OPEN_FILES, raise_open_file_limit
from common.tls import Credentials
from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import CHANNEL_OPTIONS
from tests import fleet, secure
from tests.worker.asks import run
from worker import listener
from worker.auth import AuthInterceptor
from worker.config import WorkerConfig
from worker.engines.scripted.counting import CountingConfig, CountingEngine
from worker.server import SERVING, Server

WAIT_S = 60.0
# HTTP/2's preface and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5); no acknowledgement follows.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
ASK = health_pb2.HealthCheckRequest()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write certificates."""
    directory = tmp_path_factory.mktemp("tls")
    secure.write_files(directory)
    return directory


@contextlib.asynccontextmanager
async def serving(port: int, auth: AuthInterceptor | None = None) -> AsyncIterator[None]:
    """Serve the counting engine in this process for a block."""
    config = WorkerConfig(port=port)
    server = Server(config, CountingEngine(CountingConfig()), auth)
    ended = asyncio.ensure_future(server.serve())
    await asyncio.wait_for(server.serving.wait(), WAIT_S)
    yield
    server.stop()
    await asyncio.wait_for(ended, WAIT_S)


class Flood(contextlib.ExitStack):
    """Connections that send a few bytes and then nothing, open up to the end of a block."""

    def begin(self, port: int, num: int, first_bytes: bytes) -> None:
        """Open further connections."""
        for _ in range(num):
            sock = self.enter_context(socket.create_connection(("127.0.0.1", port), WAIT_S))
            with contextlib.suppress(ConnectionError):
                sock.sendall(first_bytes)


def open_channel(port: int, files: Path | None = None) -> grpc.aio.Channel:
    """Open a channel that shares its connection with no other."""
    address = f"127.0.0.1:{port}"
    if files is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials((files / "ca.pem").read_bytes())
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


async def check(channel: grpc.aio.Channel) -> str:
    """Call Check once; returns the health or the status code."""
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(ASK, timeout=WAIT_S)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


async def lock_out(flood: Flood, port: int, first_bytes: bytes, files: Path | None) -> None:
    """Open three times the limit of connections, again if a busy machine took longer than a handshake may."""
    async with asyncio.timeout(WAIT_S):
        while True:
            flood.begin(port, 60, first_bytes)
            async with open_channel(port, files) as late:
                if await check(late) == "UNAVAILABLE":
                    return


async def wait_admitted(port: int, files: Path | None = None) -> None:
    """Wait until a new connection is served."""
    deadline_s = time.monotonic() + WAIT_S
    while True:
        async with open_channel(port, files) as channel:
            if await check(channel) == "SERVING":
                return
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("first_bytes", "with_tls"),
    [(b"", False), (PREFACE, False), (b"\x16\x03\x01", True)],
    ids=["silent", "half-open-http2", "half-open-tls"],
)
def test_idle_connections_are_closed_and_calls_are_kept(
    monkeypatch: pytest.MonkeyPatch, files: Path, first_bytes: bytes, with_tls: bool
) -> None:
    """Three times the limit of connections: open calls and idle channels go on, and new ones soon succeed."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(listener, "HANDSHAKE_TIMEOUT_MS", 1000)
    pems = [(files / name).read_bytes() for name in ("worker.pem", "worker.key")]
    auth = AuthInterceptor(Credentials(cert=pems[0], key=pems[1])) if with_tls else AuthInterceptor()
    ca = files if with_tls else None
    port = fleet.free_port()

    async def steps() -> None:
        async with serving(port, auth), open_channel(port, ca) as idle, open_channel(port, ca) as watching:
            watch = health_pb2_grpc.HealthStub(watching).Watch(ASK)
            assert (await watch.read()).status == SERVING
            await asyncio.wait_for(idle.channel_ready(), WAIT_S)
            with Flood() as flood:
                await lock_out(flood, port, first_bytes, ca)
                assert "SERVING" == await check(idle)
                await wait_admitted(port, ca)
                # Longer than a handshake may take, and without any call.
                await asyncio.sleep(1.2)
                assert idle.get_state() is grpc.ChannelConnectivity.READY
                assert "SERVING" == await check(idle)
                assert not watch.done()
            watch.cancel()

    run(steps())


def test_idle_channel_that_is_closed_connects_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection without calls ends after the idle time; its next call succeeds. Watch is a call."""
    monkeypatch.setattr(listener, "MAX_IDLE_MS", 500)
    port = fleet.free_port()

    async def steps() -> None:
        async with serving(port), open_channel(port) as channel, open_channel(port) as watching:
            watch = health_pb2_grpc.HealthStub(watching).Watch(ASK)
            assert (await watch.read()).status == SERVING
            assert "SERVING" == await check(channel)
            await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), WAIT_S)
            assert "SERVING" == await check(channel)
            assert not watch.done()
            watch.cancel()

    run(steps())


def test_one_connection_cannot_hold_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 30 Watch calls on one connection 10 are served; another connection is served too."""
    monkeypatch.setattr(listener, "MAX_CALLS_PER_CONNECTION", 10)
    port = fleet.free_port()

    async def steps() -> None:
        async with serving(port), open_channel(port) as greedy, open_channel(port) as other:
            watches = [health_pb2_grpc.HealthStub(greedy).Watch(ASK) for _ in range(30)]
            first = [asyncio.ensure_future(watch.read()) for watch in watches]
            waiting = set(first)
            async with asyncio.timeout(WAIT_S):
                while len(waiting) > 20:
                    _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert set() == (await asyncio.wait(waiting, timeout=1.0))[0]
            assert "SERVING" == await check(other)
            for watch in watches:
                watch.cancel()
            await asyncio.wait(waiting, timeout=WAIT_S)
            for read in waiting:
                with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                    read.result()

    run(steps())


@pytest.mark.parametrize(
    ("limit", "num_addresses", "expected"),
    # Half of the open files, at most 8,192, divided among the addresses.
    [(1024, 1, 512), (1024, 2, 256), (65_535, 1, 8192), (2**64 - 1, 2, 4096), (2, 4, 1)],
)
def test_connections_leave_half_of_the_open_files(
    monkeypatch: pytest.MonkeyPatch, limit: int, num_addresses: int, expected: int
) -> None:
    """The engine can open files while every connection is taken."""
    monkeypatch.setattr(listener, "open_file_limit", lambda: limit)
    options = dict(listener.server_options(num_addresses))
    assert expected == options["grpc.max_allowed_incoming_connections"]


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (1024, 4096, 4096),
        (1024, 1 << 20, 65_535),
        (1024, resource.RLIM_INFINITY, 65_535),
        (70_000, 1 << 20, 70_000),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 2**64 - 1),
    ],
)
def test_limit_on_open_files_is_raised(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int
) -> None:
    """To 65,535 where the hard limit permits; the hard limit and a higher soft limit are kept."""
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert raised == raise_open_file_limit()
    assert hard == limits[-1][1]
    assert raised == limits[-1][0] % 2**64


def limited(num_files: int) -> tuple[str, ...]:
    """Return a command that runs a worker whose hard limit on open files is this."""
    return ("prlimit", f"--nofile={num_files // 4}:{num_files}", sys.executable, "-m", "worker")


def test_worker_raises_its_limit_on_open_files(tmp_path: Path) -> None:
    """A worker that is started with a soft limit of 256 files has that of the hard limit, 1,024."""
    worker = fleet.start_worker(tmp_path / "log", program=limited(1024))
    try:
        fleet.wait_serving(worker)
        with grpc.insecure_channel(worker.address) as channel:
            host = rpc.WorkerStub(channel).GetHost(pb.GetHostRequest(), timeout=WAIT_S)
    finally:
        worker.stop()
    assert min(1024, WANTED_OPEN_FILES) == host.soft_open_files


def num_open_files(pid: int) -> int:
    """Count the open files of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.long
@pytest.mark.parametrize("first_bytes", [b"", PREFACE], ids=["silent", "half-open-http2"])
def test_1500_idle_connections_at_1024_open_files(tmp_path: Path, first_bytes: bytes) -> None:
    """The worker keeps its channels, opens files meanwhile, and admits new connections within WAIT_S."""
    worker = fleet.start_worker(tmp_path / "log", program=limited(1024))
    port = int(worker.address.rpartition(":")[2])

    async def steps() -> None:
        async with open_channel(port) as held:
            assert "SERVING" == await check(held)
            with Flood() as flood:
                flood.begin(port, 1500, first_bytes)
                host = await rpc.WorkerStub(held).GetHost(pb.GetHostRequest(), timeout=WAIT_S)
                assert "grpcio" in host.package_versions
                assert num_open_files(worker.process.pid) < 600
                await wait_admitted(port)
                assert "SERVING" == await check(held)

    try:
        fleet.wait_serving(worker)
        run(steps())
    finally:
        worker.stop()
