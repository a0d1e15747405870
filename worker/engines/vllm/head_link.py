"""A follower's end of an engine over several nodes: joins the head and notices when it is lost."""

import asyncio
import logging
from collections.abc import Mapping

from common.flags import FlagError
from protos import worker_pb2 as pb
from worker.engine_protocol import EngineDead
from worker.engines.vllm.multi_node import NodePlace
from worker.engines.vllm.node_link import MAX_LINE_BYTES, Kind, LinkLost, LinkTimes, Message, NodeLink

logger = logging.getLogger(__name__)


class HeadLink:
    """The link to a head that has admitted this node; created by `head_link`."""

    def __init__(self, link: NodeLink, place: NodePlace) -> None:
        """Take over the link."""
        self._link, self._place = link, place
        self.own_address = link.own_address
        """Address of this node in the network of the head."""

    async def wait_lost(self) -> str:
        """Carry the link until the head has ended or is silent; return the reason."""
        reason = await self._link.carry(_take_nothing)
        return f"the head at {self._place.link_address}: {reason}"

    def send_model_hash(self, model_hash: str) -> None:
        """Send the hash of this node's model files, which the head compares with its own."""
        self._link.send(Message(Kind.MODEL, text=model_hash))

    async def close(self, reason: str) -> None:
        """Tell the head why this node ends, and close the link."""
        await self._link.close(Message(Kind.ENDED, text=reason))


async def join_head(
    place: NodePlace, settings: Mapping[str, str], host: pb.HostInfo, times: LinkTimes | None = None
) -> HeadLink:
    """Connect to the head, as soon as it listens, and join its engine.

    Args:
        place: This node's place.
        settings: node_settings of this node.
        host: This machine, for the record of a run.
        times: Time limits.

    Raises:
        FlagError: The head refuses this node's flags.
        EngineDead: The head does not listen or answer in time, or the node rank is taken.
    """
    times = times or LinkTimes()
    reader, writer = await _connect(place, times)
    link = NodeLink(reader, writer, times)
    link.send(Message.hello(place.node_rank, settings, host))
    try:
        async with asyncio.timeout(times.reply_s):
            reply = await link.receive()
            while reply.kind is Kind.ALIVE:
                reply = await link.receive()
    except (LinkLost, TimeoutError) as error:
        await link.close()
        raise EngineDead(f"the head at {place.link_address} does not answer: {error}") from error
    if reply.kind is not Kind.WELCOME:
        await link.close()
        reason = f"the head at {place.link_address} refuses this node: {reply.text}"
        raise FlagError("--node-rank", reason) if reply.is_bad_input else EngineDead(reason)
    logger.info("joined the head at %s as node rank %d", place.link_address, place.node_rank)
    return HeadLink(link, place)


async def _connect(place: NodePlace, times: LinkTimes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the head, which may be started later than this node.

    Raises:
        EngineDead: It does not listen in time.
    """
    deadline_s = asyncio.get_running_loop().time() + times.join_s
    logger.info("node rank %d: connecting to the head at %s", place.node_rank, place.link_address)
    while True:
        try:
            async with asyncio.timeout(times.reply_s):
                return await asyncio.open_connection(place.master_addr, place.link_port, limit=MAX_LINE_BYTES)
        except (OSError, TimeoutError) as error:
            if asyncio.get_running_loop().time() > deadline_s:
                reason = f"no head at {place.link_address} within {times.join_s:g} s: {error or 'no answer'}"
                raise EngineDead(reason) from error
        await asyncio.sleep(times.beat_s)


def _take_nothing(_: Message) -> None:
    """Ignore a message: the head sends none but ALIVE and ENDED."""
