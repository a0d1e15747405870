"""Requests over one socket per worker, a message for each chunk of an answer: both ends."""

import time
from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from bench.peers.driver import die_on_loop_errors
from bench.peers.streams import Chunk, Cutter
from bench.peers.zmq_driver import ZmqDriver
from bench.peers.zmq_sockets import Door, WorkerLink
from coordinator.config import RunConfig
from protos.columns import TokenIds
from sut.dataset import Dataset
from worker.engines.scripted.counting import CountingEngine


class Request(NamedTuple):
    """One prompt on its way."""

    name: int
    prompt: TokenIds
    """(P,) token ids."""
    max_new_tokens: int


class Message(Protocol):
    """What one message brings."""

    @property
    def name(self) -> int:
        """Whose tokens they are."""

    @property
    def tokens(self) -> Sequence[int]:
        """New tokens; none where only the end is told."""

    @property
    def produced_ns(self) -> int:
        """When the engine handed the last of them over."""

    @property
    def finished(self) -> bool:
        """No more will come."""


class Codec(Protocol):
    """How requests and chunks become messages."""

    def encode_request(self, request: Request) -> bytes:
        """Pack a request."""
        ...

    def decode_request(self, body: bytes) -> Request:
        """Unpack it."""
        ...

    def encode_chunk(self, name: int, chunk: Chunk) -> Iterable[bytes]:
        """Pack new tokens of a request."""
        ...

    def decode_message(self, body: bytes) -> Message:
        """Unpack one of those messages."""
        ...


async def serve(engine: CountingEngine, tokens_per_message: int, port: int, codec: Codec) -> None:
    """Serve for ever."""
    die_on_loop_errors()

    def submit(body: bytes) -> None:
        request = codec.decode_request(body)
        cutter.submit(request.name, request.prompt, request.max_new_tokens)

    def deliver(name: int, chunk: Chunk) -> None:
        for message in codec.encode_chunk(name, chunk):
            door.send(message)

    door = Door(port, lambda: None, submit)
    cutter = Cutter(engine, tokens_per_message, deliver, door.room)
    await cutter.pump()


class InFlight:
    """One request as the driver knows it."""

    __slots__ = ("answer", "loadgen_id", "worker")

    def __init__(self, loadgen_id: int, worker: int) -> None:
        self.loadgen_id = loadgen_id
        self.worker = worker
        self.answer = array("i")


class MessageDriver(ZmqDriver):
    """A table of requests, and a call for each message; everything but `_issue` runs on the event loop."""

    def __init__(self, config: RunConfig, data: Dataset, max_new_tokens: int, codec: Codec) -> None:
        """See ZmqDriver; `codec` makes the messages."""
        super().__init__(config, data, max_new_tokens)
        self._codec = codec
        self._outstanding = [0] * len(config.workers)
        self.requests: dict[int, InFlight] = {}
        """By name."""
        self._num_started = 0

    @property
    def num_requests(self) -> int:
        """Requests in flight."""
        return len(self.requests)

    async def connect(self) -> None:
        """Tell every worker where its messages go."""
        self._links = [WorkerLink(address, self.take) for address in self._addresses]

    def _start(self, ids: list[int], samples: list[int]) -> None:
        """Send each request to the least loaded worker."""
        for id_, sample in zip(ids, samples, strict=True):
            name = self._num_started
            self._num_started += 1
            worker = min(range(len(self._links)), key=self._outstanding.__getitem__)
            self._outstanding[worker] += 1
            self.requests[name] = InFlight(id_, worker)
            request = Request(name, self._data.prompt(sample), self._budget)
            self._links[worker].send(self._codec.encode_request(request))

    def take(self, body: bytes) -> None:
        """Add one message to its request's answer."""
        message = self._codec.decode_message(body)
        request = self.requests[message.name]
        answer = request.answer
        first = not answer
        answer.extend(message.tokens)
        if first or message.finished:
            self.report(request, first, message)

    def report(self, request: InFlight, first: bool, message: Message) -> None:
        """Tell LoadGen of a first token, an end, or both."""
        id_, answer = request.loadgen_id, request.answer
        if first and self.sut.reports_first_tokens:
            self.sut.first_tokens([id_], [answer.buffer_info()[0]])
        if message.finished:
            self.sut.complete([id_], [answer.buffer_info()[0]], [len(answer)])
            self._outstanding[request.worker] -= 1
            del self.requests[message.name]
        self.report_delays_ns.append(time.monotonic_ns() - message.produced_ns)
