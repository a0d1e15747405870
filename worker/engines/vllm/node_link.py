"""One TCP connection between the head of an engine over several nodes and each of its followers.

vLLM's ranks wait without a bound for ranks on other nodes, so they do not notice that one has died. The
daemons of the nodes therefore watch each other: each end sends a message once a second, and ends its ranks
when the other end has ended or is silent. A message is one line of JSON. Like the connections between vLLM's
ranks, this one has neither encryption nor authentication.
"""

import asyncio
import base64
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import NamedTuple

from google.protobuf.message import DecodeError

from common.idle_timer import IdleTimer
from common.json_document import parse_object
from common.text import printable
from protos import worker_pb2 as pb

MAX_LINE_BYTES = 1 << 20
MAX_TEXT_LEN = 1000
PROCESS_ENDED = "its process has ended"


class Kind(StrEnum):
    """What a message of the link means."""

    HELLO = "hello"
    """First message of a follower: its rank, its settings and its machine."""
    WELCOME = "welcome"
    """First message of the head: the follower may load its ranks."""
    REFUSED = "refused"
    """First and only message of the head: this follower cannot be part of the engine; with the reason."""
    MODEL = "model"
    """A follower's hash of its model files."""
    ALIVE = "alive"
    """Nothing to report for a second."""
    ENDED = "ended"
    """The last message of either end, with the reason."""


class Message(NamedTuple):
    """One line."""

    kind: Kind
    node_rank: int = 0
    """Of a HELLO."""
    settings: dict[str, str] | None = None
    """Of a HELLO: node_settings of the follower."""
    text: str = ""
    """Reason or hash."""
    is_bad_input: bool = False
    """Of REFUSED: whether the follower's flags are at fault."""
    host: str = ""
    """Of a HELLO: the follower's machine, an encoded HostInfo in base64."""

    @classmethod
    def hello(cls, node_rank: int, settings: Mapping[str, str], host: pb.HostInfo) -> "Message":
        """Compose a follower's first message."""
        encoded = base64.b64encode(host.SerializeToString()).decode()
        return cls(Kind.HELLO, node_rank, dict(settings), host=encoded)

    @property
    def host_info(self) -> pb.HostInfo:
        """The follower's machine.

        Raises:
            ValueError: `host` is not an encoded HostInfo.
        """
        try:
            return pb.HostInfo.FromString(base64.b64decode(self.host))
        except DecodeError as error:
            raise ValueError(str(error)) from error


class LinkTimes(NamedTuple):
    """Time limits of a link, in seconds."""

    join_s: float = 600.0
    """Until all nodes of an engine have been started."""
    reply_s: float = 15.0
    """Until a new connection has sent its first message."""
    beat_s: float = 1.0
    """Interval of ALIVE messages."""
    silence_s: float = 15.0
    """Without any message the other node counts as lost."""


class LinkLost(Exception):
    """The other end has ended or is silent; the message gives the reason."""


class NodeLink:
    """One end of the connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, times: LinkTimes) -> None:
        """Take over an open connection.

        Args:
            reader: Its limit is MAX_LINE_BYTES.
            writer: Its other half.
            times: Time limits.
        """
        self._reader, self._writer, self._times = reader, writer, times
        self._silence = IdleTimer(times.beat_s)
        self.own_address: str = writer.get_extra_info("sockname")[0]
        self.peer_address: str = writer.get_extra_info("peername")[0]

    def send(self, message: Message) -> None:
        """Send a message, without waiting: the other end is lost if it does not read."""
        if not self._writer.is_closing():
            self._writer.write(f"{json.dumps(message._asdict())}\n".encode())

    async def receive(self) -> Message:
        """Wait for the next message.

        Raises:
            LinkLost: The connection has ended, or a line is no message.
        """
        try:
            line = await self._reader.readline()
        except ConnectionResetError as error:
            raise LinkLost(PROCESS_ENDED) from error
        except (OSError, ValueError) as error:
            raise LinkLost(f"connection lost: {error}") from error
        if not line.endswith(b"\n"):
            raise LinkLost(PROCESS_ENDED)
        return _read(line)

    async def carry(self, take: Callable[[Message], None]) -> str:
        """Send ALIVE messages and receive until the other end is lost; return the reason.

        Args:
            take: Called with each message that is neither ALIVE nor ENDED.
        """
        try:
            await _first(self._beat(), self._receive_all(take))
        except LinkLost as lost:
            return str(lost)
        raise AssertionError("both loops end with LinkLost")

    async def close(self, message: Message | None = None) -> None:
        """Send a last message and close the connection; waits at most as long as for a reply."""
        if message is not None:
            self.send(message)
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(self._times.beat_s):
                await self._writer.wait_closed()

    async def _beat(self) -> None:
        while True:
            self.send(Message(Kind.ALIVE))
            await asyncio.sleep(self._times.beat_s)
            self._silence.tick()
            if self._silence.idle_s > self._times.silence_s:
                raise LinkLost(f"silent for {self._times.silence_s:g} s")

    async def _receive_all(self, take: Callable[[Message], None]) -> None:
        while (message := await self.receive()).kind is not Kind.ENDED:
            self._silence.mark_active()
            if message.kind is not Kind.ALIVE:
                take(message)
        raise LinkLost(message.text)


def _read(line: bytes) -> Message:
    """Decode a line; what other programs send to the port is none.

    Raises:
        LinkLost: It is no message.
    """
    try:
        message = Message(**parse_object(line))  # type: ignore[arg-type]  # converted below
        settings = None if message.settings is None else dict(message.settings)
        kind, text = Kind(message.kind), printable(str(message.text), MAX_TEXT_LEN)
        rank, is_bad_input = int(message.node_rank), bool(message.is_bad_input)
        return Message(kind, rank, settings, text, is_bad_input, str(message.host))
    except (ValueError, TypeError, OverflowError) as error:
        raise LinkLost("sends no message of this protocol") from error


async def _first(*works: Awaitable[None]) -> None:
    """Run loops until the first one raises; the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
