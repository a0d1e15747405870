"""ZMQ PUSH and PULL sockets on an event loop, for prompts to a worker and its messages back.

A worker binds a PULL socket at its port. The driver binds one PULL socket per worker and sends its address
in the first message, as the fan-in of MLCommons endpoints does. pyzmq's asyncio sockets cost several times
as much per message as the non-blocking calls here.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import zmq

Take = Callable[[bytes], None]
"""Called with one message."""
# Bound of the messages per loop turn, so that other sockets and tasks run too.
MAX_MESSAGES_PER_TURN = 4096
# Bound of the messages queued in ZMQ at either end, and the retry interval for a full queue.
MAX_QUEUED = 100_000
RETRY_S = 0.001
OPEN, REQUEST = b"O", b"R"


class Receiver:
    """A PULL socket that passes its messages to a callable."""

    def __init__(self, take: Take) -> None:
        """Create an unbound socket; needs a running loop."""
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._socket.set(zmq.RCVHWM, MAX_QUEUED)
        self._soon: asyncio.Handle | None = None
        self.num_messages = 0

    def bind(self, port: int) -> None:
        """Bind to a port of this machine and receive."""
        self._socket.bind(f"tcp://127.0.0.1:{port}")
        self._listen()

    def bind_anywhere(self) -> str:
        """Bind to a free port and receive; return the address."""
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._listen()
        return f"tcp://127.0.0.1:{port}"

    def close(self) -> None:
        """Stop receiving."""
        self._loop.remove_reader(self._socket.fileno())
        if self._soon is not None:
            self._soon.cancel()
        self._socket.close(linger=0)

    def _listen(self) -> None:
        self._loop.add_reader(self._socket.fileno(), self._drain)
        # The descriptor signals only changes, not messages that are already queued.
        self._soon = self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        """Receive all queued messages; the descriptor signals again only after the queue was empty."""
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
    """A PUSH socket that queues the messages that ZMQ does not accept yet."""

    def __init__(self, address: str) -> None:
        """Connect; ZMQ retries until the socket is closed."""
        self._unsent: deque[bytes] = deque()
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.set(zmq.SNDHWM, MAX_QUEUED)
        self._socket.connect(address)

    def send(self, message: bytes) -> None:
        """Send a message after all earlier ones."""
        if self._unsent:
            self._unsent.append(message)
            return
        try:
            self._socket.send(message, zmq.NOBLOCK)
        except zmq.Again:
            self._unsent.append(message)

    async def room(self) -> None:
        """Wait until ZMQ has accepted all messages."""
        while self._unsent:
            await asyncio.sleep(RETRY_S)
            while self._unsent:
                try:
                    self._socket.send(self._unsent[0], zmq.NOBLOCK)
                except zmq.Again:
                    break
                self._unsent.popleft()

    def close(self) -> None:
        """Stop sending."""
        self._socket.close(linger=0)


class DriverSockets:
    """Sockets of the driver for one worker."""

    def __init__(self, address: str, take: Take) -> None:
        """Connect, and send the worker the address for its messages.

        Args:
            address: host:port.
            take: Called with each of its messages.
        """
        self._receiver = Receiver(take)
        self._sender = Sender(f"tcp://{address}")
        self._sender.send(OPEN + self._receiver.bind_anywhere().encode())

    @property
    def num_messages(self) -> int:
        """Return the number of received messages."""
        return self._receiver.num_messages

    def send(self, request: bytes) -> None:
        """Send one message with requests to the worker."""
        self._sender.send(REQUEST + request)

    async def room(self) -> None:
        """Wait until ZMQ has accepted all requests."""
        await self._sender.room()

    def close(self) -> None:
        """Close both sockets."""
        self._receiver.close()
        self._sender.close()


class WorkerSockets:
    """Sockets of a worker: receives requests, and sends to the driver that connected last."""

    def __init__(self, port: int, take: Take) -> None:
        """Bind the port; needs a running loop.

        Args:
            port: Port of this machine.
            take: Called with each message of requests.
        """
        self._take = take
        self._sender: Sender | None = None
        self._receiver = Receiver(self._admit)
        self._receiver.bind(port)

    def send(self, message: bytes) -> None:
        """Send a message to the driver."""
        assert self._sender is not None, "tokens before a driver has connected"
        self._sender.send(message)

    async def room(self) -> None:
        """Wait until ZMQ accepts more messages."""
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
