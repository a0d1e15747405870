"""The head's end of an engine over several nodes: admits the followers and notices when one is lost."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, TypeVar

from common.flags import FlagError
from protos import worker_pb2 as pb
from worker.engine_protocol import EngineDead
from worker.engines.vllm.multi_node import NodePlace
from worker.engines.vllm.node_link import MAX_LINE_BYTES, Kind, LinkLost, LinkTimes, Message, NodeLink

_Result = TypeVar("_Result")

# A follower reports the end of a rank at once.
REPORT_TIMEOUT_S = 1.0

logger = logging.getLogger(__name__)


class FollowerLost(EngineDead):
    """Another node of the engine has ended or is silent."""


class FollowerLinks:
    """Links to all followers; created by `follower_links`."""

    def __init__(
        self, place: NodePlace, own_address: str, settings: Mapping[str, str], times: LinkTimes
    ) -> None:
        """Create it without links.

        Args:
            place: The head's place.
            own_address: IP address at which the head listens.
            settings: Each follower must have the same; see node_settings.
            times: Time limits.
        """
        self.own_address = own_address
        self._place, self._settings, self._times = place, settings, times
        self._links: dict[int, NodeLink] = {}
        self._hosts: dict[int, pb.HostInfo] = {}
        self._hashes: dict[int, str] = {}
        self._changed = asyncio.Event()
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when a follower is lost, with the reason; only the first loss counts."""

    @property
    def hosts(self) -> tuple[pb.HostInfo, ...]:
        """Machines of the followers that have joined, by node rank."""
        return tuple(host for _, host in sorted(self._hosts.items()))

    async def join(self) -> None:
        """Wait until all followers have joined.

        Raises:
            FollowerLost: One is lost.
            EngineDead: They have not in time.
        """
        await self._wait_for_all(self._links, "have not joined")

    async def unless_lost(self, work: "asyncio.Future[_Result]") -> _Result:
        """Wait for work, which goes on when this wait ends early.

        Raises:
            FollowerLost: A follower is lost.
        """
        waits: set[asyncio.Future[Any]] = {work, self.lost}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise FollowerLost(self.lost.result())
        return work.result()

    async def raise_loss(self) -> None:
        """Wait until a follower is lost.

        Raises:
            FollowerLost: It is.
        """
        raise FollowerLost(await self.lost)

    async def raise_if_lost(self, error: EngineDead) -> None:
        """Find out whether an error follows from a loss, which may be known a little later.

        Raises:
            FollowerLost: A follower is lost.
        """
        if self._place.nnodes > 1:
            await asyncio.wait({self.lost}, timeout=REPORT_TIMEOUT_S)
        if self.lost.done():
            raise FollowerLost(self.lost.result()) from error

    async def check_model(self, model_hash: str) -> None:
        """Wait until all followers have hashed their model files, and compare the hashes.

        Raises:
            FlagError: A follower has another model.
            FollowerLost: A follower is lost.
            EngineDead: A follower has not hashed its files in time.
        """
        await self._wait_for_all(self._hashes, "have not hashed the model")
        for rank, found in sorted(self._hashes.items()):
            if found != model_hash:
                peer = self._links[rank].peer_address
                reason = f"node rank {rank} at {peer} has another model: hash {found}, here {model_hash}"
                raise FlagError("--model", reason)

    async def close(self, reason: str) -> None:
        """Tell the followers why the head ends, and close their links; a second call does nothing."""
        links, self._links = self._links, {}
        message = Message(Kind.ENDED, text=reason)
        await asyncio.gather(*(link.close(message) for link in links.values()))

    async def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; one that is no follower's is closed without effect."""
        link = NodeLink(reader, writer, self._times)
        try:
            async with asyncio.timeout(self._times.reply_s):
                hello = await link.receive()
            host = hello.host_info
        except (LinkLost, TimeoutError, ValueError) as error:
            logger.warning("connection from %s is no follower's: %s", link.peer_address, error)
            await link.close()
            return
        if refusal := self._refuse(hello):
            logger.warning("node rank %s at %s refused: %s", hello.node_rank, link.peer_address, refusal.text)
            await link.close(refusal)
            return
        self._hosts[hello.node_rank] = host
        await self._serve(link, hello.node_rank)

    async def _serve(self, link: NodeLink, rank: int) -> None:
        self._links[rank] = link
        link.send(Message(Kind.WELCOME))
        logger.info("node rank %d at %s has joined", rank, link.peer_address)
        self._changed.set()
        reason = await link.carry(lambda message: self._take(rank, message))
        if not self.lost.done():
            self.lost.set_result(f"node rank {rank} at {link.peer_address}: {reason}")
        self._changed.set()

    def _take(self, rank: int, message: Message) -> None:
        if message.kind is Kind.MODEL:
            self._hashes[rank] = message.text
            self._changed.set()

    def _refuse(self, hello: Message) -> Message | None:
        """Return why a connection cannot be a follower; None if it can."""
        if hello.kind is not Kind.HELLO or hello.node_rank not in range(1, self._place.nnodes):
            reason = f"--node-rank: {hello.node_rank!r} is not in 1..{self._place.nnodes - 1}"
            return Message(Kind.REFUSED, text=reason, is_bad_input=True)
        if hello.node_rank in self._links:
            peer = self._links[hello.node_rank].peer_address
            return Message(Kind.REFUSED, text=f"node rank {hello.node_rank} has joined already, from {peer}")
        if difference := _difference(hello.settings or {}, self._settings):
            return Message(Kind.REFUSED, text=difference, is_bad_input=True)
        return None

    async def _wait_for_all(self, arrived: Mapping[int, object], failure: str) -> None:
        expected = range(1, self._place.nnodes)
        try:
            async with asyncio.timeout(self._times.join_s):
                while len(arrived) < len(expected) and not self.lost.done():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            missing = ", ".join(str(rank) for rank in expected if rank not in arrived)
            reason = f"node ranks {missing} {failure} within {self._times.join_s:g} s"
            raise EngineDead(reason) from error
        if self.lost.done():
            raise FollowerLost(self.lost.result())


@contextlib.asynccontextmanager
async def follower_links(
    place: NodePlace, settings: Mapping[str, str], times: LinkTimes | None = None
) -> AsyncIterator[FollowerLinks]:
    """Listen for followers inside a `with` block; an engine of one node has none.

    Raises:
        FlagError: --master-addr is no address of this machine, or the port is in use.
    """
    if place.nnodes == 1:
        yield FollowerLinks(place, place.master_addr, settings, times or LinkTimes())
        return
    listening = _bind(place)
    links = FollowerLinks(place, listening.getsockname()[0], settings, times or LinkTimes())
    server = await asyncio.start_server(links.admit, sock=listening, limit=MAX_LINE_BYTES)
    logger.info("waiting at %s for %d other nodes of this engine", place.link_address, place.nnodes - 1)
    try:
        yield links
    finally:
        server.close()
        await links.close("its daemon has been stopped")


def _bind(place: NodePlace) -> socket.socket:
    """Bind the link's address.

    Raises:
        FlagError: --master-addr is no address of this machine, or the port is in use.
    """
    with contextlib.ExitStack() as stack:
        try:
            infos = socket.getaddrinfo(place.master_addr, place.link_port, type=socket.SOCK_STREAM)
            family, *_, address = infos[0]
            listening = stack.enter_context(socket.socket(family))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except (OSError, UnicodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a valid name"
            reason = f"node rank 0 cannot listen on {place.link_address}: {why}"
            raise FlagError("--master-addr", reason) from error
        stack.pop_all()
    return listening


def _difference(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str | None:
    """Return the first setting that differs between a follower and the head; None if all are equal."""
    for name in sorted({*theirs, *ours}):
        there, here = theirs.get(name, "default"), ours.get(name, "default")
        if there != here:
            what = "flags, variables and packages"
            return f"{name} is {there} on this node and {here} on the head: start all nodes with equal {what}"
    return None
