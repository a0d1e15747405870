"""The links between the nodes of one engine: who may join, what counts as a loss, and what both ends say."""

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import pytest

from common.flags import FlagError
from protos import worker_pb2 as pb
from tests import fleet
from worker.engine_protocol import EngineDead
from worker.engines.vllm.follower_links import FollowerLinks, FollowerLost, follower_links
from worker.engines.vllm.head_link import HeadLink, join_head
from worker.engines.vllm.multi_node import NodePlace
from worker.engines.vllm.node_link import LinkTimes

TIMES = LinkTimes(join_s=0.3, reply_s=0.3, beat_s=0.05, silence_s=0.3)
PATIENT = TIMES._replace(join_s=10, reply_s=10, silence_s=10)
SETTINGS = {"nnodes": "3", "tensor_parallel_size": "4"}
NO_HOST = pb.HostInfo()
# A follower's first message with a machine that cannot be decoded: base64 of a truncated HostInfo.
NO_HOST_INFO = (
    b'{"kind": "hello", "node_rank": 1, "settings": %b, "host": "Cg=="}\n' % json.dumps(SETTINGS).encode()
)


class Head(NamedTuple):
    """A head, its port for links, and what closes the links of its followers."""

    links: FollowerLinks
    port: int
    exits: contextlib.AsyncExitStack

    async def join(self, node_rank: int = 1) -> HeadLink:
        """Join as a follower with the head's settings."""
        link = await join_head(
            place(node_rank, self.port), SETTINGS, pb.HostInfo(hostname=f"node{node_rank}"), PATIENT
        )
        self.exits.push_async_callback(link.close, "the test is over")
        return link


def place(node_rank: int, link_port: int, nnodes: int = 3) -> NodePlace:
    """Compose a place; the link's port is the one after --master-port."""
    return NodePlace(nnodes, node_rank, "127.0.0.1", link_port - 1)


@contextlib.asynccontextmanager
async def head(times: LinkTimes = PATIENT) -> AsyncIterator[Head]:
    """Listen for the two followers of an engine of three nodes."""
    port = fleet.free_port()
    async with (
        follower_links(place(0, port), SETTINGS, times) as links,
        contextlib.AsyncExitStack() as exits,
    ):
        yield Head(links, port, exits)


def bounded(work: Callable[[], Awaitable[None]]) -> None:
    """Run a test's steps, within a bound."""

    async def run() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(run())


async def said_by(port: int, line: bytes) -> bytes:
    """Send a line as a program that may be no follower; return what the head answers until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(line)
    answer = await reader.read()
    writer.close()
    return answer


def test_an_engine_is_whole_when_all_its_nodes_have_joined_with_one_model() -> None:
    """The head waits for both followers and the hashes of their models; it knows their machines by rank."""

    async def steps() -> None:
        async with head() as whole:
            joining = asyncio.ensure_future(whole.links.join())
            second = await whole.join(2)
            assert (await asyncio.wait({joining}, timeout=0.1))[1], "one of two is not all"
            first = await whole.join(1)
            await joining
            assert ["node1", "node2"] == [host.hostname for host in whole.links.hosts]
            watching = [asyncio.ensure_future(link.wait_lost()) for link in (first, second)]
            for link in (first, second):
                link.send_model_hash("abc")
            await whole.links.check_model("abc")
            assert "127.0.0.1" == first.own_address == whole.links.own_address
            await whole.links.close("drained")
            expected = f"the head at 127.0.0.1:{whole.port}: drained"
            assert [expected] * 2 == await asyncio.gather(*watching)

    bounded(steps)


def test_another_model_on_a_follower_is_refused() -> None:
    """A follower whose files have another hash makes the head end with bad input, which names both."""

    async def steps() -> None:
        async with head() as whole:
            first, second = await whole.join(1), await whole.join(2)
            first.send_model_hash("abc")
            second.send_model_hash("abd")
            words = "^--model: node rank 2 at 127.0.0.1 has another model: hash abd, here abc$"
            with pytest.raises(FlagError, match=words):
                await whole.links.check_model("abc")

    bounded(steps)


@pytest.mark.parametrize(
    ("node_rank", "settings", "says"),
    [
        (1, SETTINGS | {"tensor_parallel_size": "2"}, "tensor_parallel_size is 2 on this node and 4 on the"),
        (1, {"nnodes": "3"}, "tensor_parallel_size is default on this node and 4 on the head"),
        (2, SETTINGS | {"dtype": '"half"'}, 'dtype is "half" on this node and default on the head'),
        (3, SETTINGS, "--node-rank: 3 is not in 1..2"),
    ],
)
def test_a_follower_with_other_flags_is_told_which(
    node_rank: int, settings: dict[str, str], says: str
) -> None:
    """Bad input of the follower; the head goes on waiting for one with its own flags."""

    async def steps() -> None:
        async with head() as whole:
            with pytest.raises(FlagError, match=f"^--node-rank: the head at .* refuses this node: {says}"):
                await join_head(place(node_rank, whole.port, nnodes=4), settings, NO_HOST, PATIENT)
            await whole.join(1)
            await whole.join(2)
            await whole.links.join()

    bounded(steps)


def test_a_rank_joins_once() -> None:
    """A second follower with the same rank ends, as after a restart that the head has not noticed yet."""

    async def steps() -> None:
        async with head() as whole:
            first = await whole.join(1)
            with pytest.raises(EngineDead, match=r"node rank 1 has joined already, from 127.0.0.1$"):
                await whole.join(1)
            assert not whole.links.lost.done()
            await first.close("done")

    bounded(steps)


@pytest.mark.parametrize(
    "line",
    [
        *(b"GET / HTTP/1.1\r\n", b"{}\n", b"[1]\n", b'{"kind": "hello"}\n', b"\xff\n", NO_HOST_INFO),
        pytest.param(b"[" * 100_000 + b"\n", id="nested too deeply"),
        b'{"kind": "hello", "node_rank": 1e999}\n',
    ],
)
def test_what_is_no_follower_has_no_effect(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Other programs that reach the port are closed with one line; the followers join as before."""

    async def steps() -> None:
        async with head() as whole:
            answer = await said_by(whole.port, line)
            assert b'"welcome"' not in answer
            await whole.join(1)
            await whole.join(2)
            await whole.links.join()
            assert not whole.links.lost.done()

    bounded(steps)
    assert [] == [record.message for record in caplog.records if record.exc_info]


def test_the_loss_of_a_follower_has_its_own_reason() -> None:
    """The head reports what the follower said before it ended."""

    async def steps() -> None:
        async with head() as whole:
            link = await whole.join(1)
            await whole.join(2)
            await link.close("VllmWorker-1 (process 7) ended by signal 9")
            expected = "node rank 1 at 127.0.0.1: VllmWorker-1 (process 7) ended by signal 9"
            assert expected == await whole.links.lost
            with pytest.raises(FollowerLost, match=r"ended by signal 9$"):
                await whole.links.raise_if_lost(EngineDead("a collective failed"))
            with pytest.raises(EngineDead, match=r"ended by signal 9$"):
                await whole.links.join()

    bounded(steps)


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_killed_follower_is_lost_at_once(is_reset: bool) -> None:
    """A connection that ends, or that the kernel resets because of unread data, is the end of a process."""

    async def steps() -> None:
        async with head() as whole:
            reader, writer = await asyncio.open_connection("127.0.0.1", whole.port)
            writer.write(b'{"kind": "hello", "node_rank": 2, "settings": ')
            writer.write(b'{"nnodes": "3", "tensor_parallel_size": "4"}}\n')
            assert b'"welcome"' in await reader.readline()
            if is_reset:
                no_wait = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_wait)
            writer.close()
            assert "node rank 2 at 127.0.0.1: its process has ended" == await whole.links.lost

    bounded(steps)


def test_a_silent_follower_is_lost_after_the_limit() -> None:
    """A stopped daemon, or a cut network, leaves the connection open and sends nothing."""

    async def steps() -> None:
        async with head(TIMES) as whole:
            # The link of `join_head` sends nothing before `wait_lost`.
            await whole.join(1)
            assert "node rank 1 at 127.0.0.1: silent for 0.3 s" == await whole.links.lost

    bounded(steps)


def test_a_silent_head_is_lost_after_the_limit() -> None:
    """A follower does not outlive a head that is stopped or cut off."""

    async def say_welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b'{"kind": "welcome"}\n')
        await reader.read()
        writer.close()

    async def steps() -> None:
        server = await asyncio.start_server(say_welcome, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            link = await join_head(place(1, port), {}, NO_HOST, TIMES)
            assert f"the head at 127.0.0.1:{port}: silent for 0.3 s" == await link.wait_lost()
            await link.close("done")

    bounded(steps)


def test_missing_followers_are_named() -> None:
    """A head does not wait without a bound for nodes that nobody starts."""

    async def steps() -> None:
        async with head(TIMES) as whole:
            joined = await whole.join(2)
            watching = asyncio.ensure_future(joined.wait_lost())
            with pytest.raises(EngineDead, match=r"^node ranks 1 have not joined within 0.3 s$"):
                await whole.links.join()
            await whole.links.close("over")
            assert f"the head at 127.0.0.1:{whole.port}: over" == await watching

    bounded(steps)


def test_a_head_may_start_later_than_its_followers() -> None:
    """A follower tries again until the head listens, and ends if it never does."""

    async def steps() -> None:
        port = fleet.free_port()
        follower = place(1, port, nnodes=2)
        with pytest.raises(EngineDead, match=f"^no head at 127.0.0.1:{port} within 0.3 s: "):
            await join_head(follower, {}, NO_HOST, TIMES)
        joining = asyncio.ensure_future(join_head(follower, {}, NO_HOST, PATIENT))
        await asyncio.wait({joining}, timeout=0.1)
        async with follower_links(place(0, port, nnodes=2), {}, PATIENT) as links:
            link = await joining
            await links.join()
            await link.close("the test is over")

    bounded(steps)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("198.51.100.1", "Cannot assign requested address"),
        ("no.such.invalid", ".+"),
        ("x" * 64, "not a valid name"),
    ],
)
def test_a_head_listens_on_its_own_address(address: str, says: str) -> None:
    """--master-addr of another machine is bad input on node rank 0."""

    async def steps() -> None:
        words = rf"^--master-addr: node rank 0 cannot listen on {address}:29502: {says}$"
        with pytest.raises(FlagError, match=words):
            async with follower_links(NodePlace(2, 0, address, 29501), {}, TIMES):
                pass

    bounded(steps)


def test_an_engine_of_one_node_has_no_links() -> None:
    """Nothing listens, nothing is waited for, and nothing is compared."""

    async def steps() -> None:
        async with follower_links(NodePlace(1, 0, "127.0.0.1", 29501), {}, TIMES) as links:
            await links.join()
            await links.check_model("abc")
            await links.raise_if_lost(EngineDead("another cause"))
            await links.close("over")

    bounded(steps)
