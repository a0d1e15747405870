"""msgspec's MessagePack over ZMQ, one message per chunk, like the stream chunks of MLCommons endpoints.

As in MLCommons endpoints, structs are encoded as arrays and excluded from garbage collection. Three things
are cheaper here: a request's name is a number instead of a UUID string, tokens are ids instead of text, and
the end is a flag of the last chunk instead of a message that repeats the answer.
Source: mlcommons/endpoints, src/inference_endpoint/core/types.py and async_utils/transport/zmq.
"""

import asyncio
from array import array

import msgspec
import numpy as np

from bench.peers.driver import die, die_on_loop_errors
from bench.peers.streams import Chunk, Cutter
from bench.peers.zmq_sockets import DriverSockets, WorkerSockets
from coordinator.config import RunConfig
from sut.dataset import Dataset
from sut.sut import SUT, Reports
from worker.engines.scripted.counting import CountingEngine


class Query(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One prompt."""

    name: int
    prompt: list[int]
    max_new_tokens: int


class StreamChunk(msgspec.Struct, array_like=True, frozen=True, omit_defaults=True, gc=False):
    """New tokens of one request."""

    name: int
    tokens: list[int]
    finished: bool = False


_ENCODER = msgspec.msgpack.Encoder()
_QUERIES = msgspec.msgpack.Decoder(Query)
_CHUNKS = msgspec.msgpack.Decoder(StreamChunk)


async def serve(engine: CountingEngine, tokens_per_message: int, port: int) -> None:
    """Serve until killed."""
    die_on_loop_errors()

    def submit(body: bytes) -> None:
        query = _QUERIES.decode(body)
        cutter.submit(query.name, np.array(query.prompt, np.int32), query.max_new_tokens)

    def deliver(name: int, chunk: Chunk) -> None:
        message = StreamChunk(name, list(chunk.tokens), chunk.finished)
        sockets.send(_ENCODER.encode(message))

    sockets = WorkerSockets(port, submit)
    cutter = Cutter(engine, tokens_per_message, deliver, sockets.room)
    await cutter.pump()


class InFlight:
    """State of one request in the driver."""

    __slots__ = ("answer", "loadgen_id", "worker")

    def __init__(self, loadgen_id: int, worker: int) -> None:
        self.loadgen_id = loadgen_id
        self.worker = worker
        self.answer = array("i")


class MessageDriver:
    """A table of requests, updated once per message. All methods but `_issue` run on the event loop."""

    def __init__(self, config: RunConfig, data: Dataset, max_new_tokens: int) -> None:
        """Connect LoadGen's callbacks with the workers; needs a running loop.

        Args:
            config: Configuration of the run.
            data: Data set with the prompts.
            max_new_tokens: Budget of each request.
        """
        die_on_loop_errors()
        self._addresses = config.workers
        self._data = data
        self._budget = max_new_tokens
        self._sockets: list[DriverSockets] = []
        self._loop = asyncio.get_running_loop()
        self._outstanding = [0] * len(config.workers)
        self._requests: dict[int, InFlight] = {}
        """Requests in flight by their name in messages."""
        self._num_started = 0
        self.sut = SUT(self._issue, die)
        self.reports = Reports(config.scenario)

    @property
    def num_messages(self) -> int:
        """Return the number of received messages with tokens or an end."""
        return sum(sockets.num_messages for sockets in self._sockets)

    async def connect(self) -> None:
        """Send every worker the address to which it sends messages."""
        self._sockets = [DriverSockets(address, self._take) for address in self._addresses]

    async def settle(self) -> None:
        """Check that no request is in flight.

        Raises:
            RuntimeError: A request is in flight although LoadGen counts all as complete.
        """
        if self._requests:
            raise RuntimeError(f"{len(self._requests)} requests in flight after the end")

    async def close(self) -> None:
        """Close all sockets."""
        for sockets in self._sockets:
            sockets.close()

    def _issue(self, ids: list[int], samples: list[int]) -> None:
        """Accept one query.

        Thread: LoadGen's; wakes the loop.
        """
        self._loop.call_soon_threadsafe(self._start, ids, samples)

    def _start(self, ids: list[int], samples: list[int]) -> None:
        """Send each request to the least loaded worker."""
        for id_, sample in zip(ids, samples, strict=True):
            name = self._num_started
            self._num_started += 1
            worker = min(range(len(self._sockets)), key=self._outstanding.__getitem__)
            self._outstanding[worker] += 1
            self._requests[name] = InFlight(id_, worker)
            query = Query(name, self._data.prompt(sample).tolist(), self._budget)
            self._sockets[worker].send(_ENCODER.encode(query))

    def _take(self, body: bytes) -> None:
        """Append a message to its request's answer."""
        message = _CHUNKS.decode(body)
        request = self._requests[message.name]
        answer = request.answer
        first = not answer
        answer.extend(message.tokens)
        if first or message.finished:
            self._report(request, first, message)

    def _report(self, request: InFlight, first: bool, message: StreamChunk) -> None:
        """Report a first token, a completion, or both to LoadGen."""
        id_, answer = request.loadgen_id, request.answer
        if first and self.reports.reports_first_tokens:
            self.reports.first_tokens([id_], [answer.buffer_info()[0]])
        if message.finished:
            self.reports.complete([id_], [answer.buffer_info()[0]], [len(answer)])
            self._outstanding[request.worker] -= 1
            del self._requests[message.name]
