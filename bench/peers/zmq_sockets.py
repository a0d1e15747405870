"""ZMQ PUSH and PULL on an event loop: prompts to a worker, and what it sends back.

A worker binds the PULL socket of its port. The driver binds one PULL socket per worker and sends
its address in the first message, as the fan-in of MLCommons endpoints does. pyzmq's own asyncio
sockets cost several times as much a message as the non-blocking calls here.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import zmq

Take = Callable[[bytes], None]
"""Takes one message."""
# Turns of the loop stay short: other sockets and tasks get theirs.
MAX_MESSAGES_PER_TURN = 4096
# Messages that wait in ZMQ at either end, and how often a full queue is tried again.
MAX_QUEUED = 100_000
RETRY_S = 0.001
OPEN, REQUEST = b"O", b"R"


class Receiver:
    """A PULL socket whose messages go to a callable."""

    def __init__(self, take: Take) -> None:
        """Create a socket that is not bound yet; needs a running loop."""
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._socket.set(zmq.RCVHWM, MAX_QUEUED)
        self._soon: asyncio.Handle | None = None
        self.num_messages = 0

    def bind(self, port: int) -> None:
        """Receive at a port of this machine."""
        self._socket.bind(f"tcp://127.0.0.1:{port}")
        self._listen()

    def bind_anywhere(self) -> str:
        """Receive at a free port; returns the address."""
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._listen()
        return f"tcp://127.0.0.1:{port}"

    def close(self) -> None:
        """Receive nothing more."""
        self._loop.remove_reader(self._socket.fileno())
        if self._soon is not None:
            self._soon.cancel()
        self._socket.close(linger=0)

    def _listen(self) -> None:
        self._loop.add_reader(self._socket.fileno(), self._drain)
        # The descriptor tells of changes, not of what is there already.
        self._soon = self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        """Take what is there; the descriptor becomes readable again only after it was found empty."""
        receive, take = self._socket.recv, self._take
        for number in range(MAX_MESSAGES_PER_TURN):
            try:
                message = receive(zmq.NOBLOCK)
            except zmq.Again:
                self.num_messages += number
                return
            take(message)
        self.num_messages += MAX_MESSAGES_PER_TURN
        self._soon = self._loop.call_soon(self._drain)


class Sender:
    """A PUSH socket that keeps what ZMQ does not take yet."""

    def __init__(self, address: str) -> None:
        """Connect; ZMQ tries again until it is closed."""
        self._unsent: deque[bytes] = deque()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.set(zmq.SNDHWM, MAX_QUEUED)
        self._socket.connect(address)

    def send(self, message: bytes) -> None:
        """Send a message after those before it."""
        if self._unsent:
            self._unsent.append(message)
            return
        try:
            self._socket.send(message, zmq.NOBLOCK)
        except zmq.Again:
            self._unsent.append(message)

    async def room(self) -> None:
        """Wait until ZMQ has taken everything."""
        while self._unsent:
            await asyncio.sleep(RETRY_S)
            while self._unsent:
                try:
                    self._socket.send(self._unsent[0], zmq.NOBLOCK)
                except zmq.Again:
                    break
                self._unsent.popleft()

    def close(self) -> None:
        """Send nothing more."""
        self._socket.close(linger=0)


class DriverSockets:
    """The driver's end of one worker."""

    def __init__(self, address: str, take: Take) -> None:
        """Connect, and tell the worker where its messages go.

        Args:
            address: host:port.
            take: Takes each of its messages.
        """
        self._receiver = Receiver(take)
        self._sender = Sender(f"tcp://{address}")
        self._sender.send(OPEN + self._receiver.bind_anywhere().encode())

    @property
    def num_messages(self) -> int:
        """Messages that came."""
        return self._receiver.num_messages

    def send(self, request: bytes) -> None:
        """Send one message of the worker's requests."""
        self._sender.send(REQUEST + request)

    async def room(self) -> None:
        """Wait until ZMQ has taken all requests."""
        await self._sender.room()

    def close(self) -> None:
        """Close both ways."""
        self._receiver.close()
        self._sender.close()


class WorkerSockets:
    """A worker's end: receives requests, and sends to the driver that connected last."""

    def __init__(self, port: int, take: Take) -> None:
        """Listen; needs a running loop.

        Args:
            port: Of this machine.
            take: Takes each message of requests.
        """
        self._take = take
        self._sender: Sender | None = None
        self._receiver = Receiver(self._admit)
        self._receiver.bind(port)

    def send(self, message: bytes) -> None:
        """Send a message to the driver."""
        assert self._sender is not None, "tokens before a driver"
        self._sender.send(message)

    async def room(self) -> None:
        """Wait until ZMQ takes more."""
        if self._sender is not None:
            await self._sender.room()

    def _admit(self, message: bytes) -> None:
        kind, body = message[:1], message[1:]
        if kind == OPEN:
            if self._sender is not None:
                self._sender.close()
            self._sender = Sender(body.decode())
        elif kind == REQUEST:
            self._take(body)
        else:
            raise ValueError(f"unknown message {kind!r}")
