"""Pickled Python lists over ZMQ: the shape of AMD's harness_llm.

In Server, with all but the first token in one message (serve's --tokens-per-message), a request makes AMD's
three: its first token, all the others at its end, and None. In Offline a worker's answers come all together,
in one message when the last of them has ended. AMD's sockets are DEALER and ROUTER; PUSH and PULL leave out
the name of the sender that comes with each of their messages. Unpickling runs code of the sender's choice:
these peers listen on loopback alone.
Source: mlcommons/inference_results_v6.0, closed/AMD/src/harness_llm/backends/vllm/zmq.
"""

import pickle
import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from bench.peers import messages
from bench.peers.driver import die_on_loop_errors
from bench.peers.streams import Chunk, Cutter
from bench.peers.zmq_sockets import Door
from coordinator.config import RunConfig
from sut.dataset import Dataset
from worker.engines.scripted.counting import CountingEngine


class Reply(NamedTuple):
    """What a message brings."""

    name: int
    tokens: list[int]
    produced_ns: int
    finished: bool


async def serve(engine: CountingEngine, tokens_per_message: int, port: int) -> None:
    """Serve for ever."""
    await messages.serve(engine, tokens_per_message, port, PickleCodec())


async def serve_all_together(engine: CountingEngine, port: int) -> None:
    """Serve for ever as AMD's Offline: whoever reads gets nothing while any request runs."""
    die_on_loop_errors()
    codec = PickleCodec()
    ended: list[tuple[int, Iterable[int], int]] = []

    def submit(body: bytes) -> None:
        request = codec.decode_request(body)
        cutter.submit(request.name, request.prompt, request.max_new_tokens)

    def deliver(name: int, chunk: Chunk) -> None:
        answers.setdefault(name, []).extend(chunk.tokens)
        if chunk.finished:
            ended.append((name, answers.pop(name), chunk.produced_ns))
        if not cutter.num_requests:
            door.send(pickle.dumps(ended))
            ended.clear()

    answers: dict[int, list[int]] = {}
    door = Door(port, lambda: None, submit)
    cutter = Cutter(engine, sys.maxsize, deliver, door.room)
    await cutter.pump()


class PickleCodec:
    """The messages of a Server run; see the module."""

    def encode_request(self, request: messages.Request) -> bytes:
        """Pack a request."""
        return pickle.dumps([request.name, request.prompt.tolist(), request.max_new_tokens])

    def decode_request(self, body: bytes) -> messages.Request:
        """Unpack it."""
        name, prompt, max_new_tokens = pickle.loads(body)
        return messages.Request(name, np.array(prompt, np.int32), max_new_tokens)

    def encode_chunk(self, name: int, chunk: Chunk) -> Iterable[bytes]:
        """Pack a chunk, and None behind the last one."""
        yield pickle.dumps([name, chunk.tokens, chunk.produced_ns])
        if chunk.finished:
            yield pickle.dumps([name, None, chunk.produced_ns])

    def decode_message(self, body: bytes) -> Reply:
        """Unpack it."""
        name, tokens, produced_ns = pickle.loads(body)
        return Reply(name, tokens or [], produced_ns, tokens is None)


class AllTogetherDriver(messages.MessageDriver):
    """Takes many whole answers in a message."""

    def __init__(self, config: RunConfig, data: Dataset, max_new_tokens: int) -> None:
        """See MessageDriver."""
        super().__init__(config, data, max_new_tokens, PickleCodec())

    def take(self, body: bytes) -> None:
        """Report every answer of a message."""
        for name, tokens, produced_ns in pickle.loads(body):
            request = self.requests[name]
            request.answer.extend(tokens)
            self.report(request, True, Reply(name, tokens, produced_ns, True))
