"""Pickled Python lists over ZMQ: the shape of AMD's harness_llm in Server.

With all but the first token in one message (serve's --tokens-per-message) a request makes AMD's three: its
first token, all the others at its end, and None. AMD's sockets are DEALER and ROUTER; PUSH and PULL leave out
the name of the sender that comes with each of their messages. Unpickling runs code of the sender's choice:
these peers listen on loopback alone.
Source: mlcommons/inference_results_v6.0, closed/AMD/src/harness_llm/backends/vllm/zmq.
"""

import pickle
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from bench.peers import messages
from bench.peers.streams import Chunk
from worker.counting_engine import CountingEngine


class Reply(NamedTuple):
    """What a message brings."""

    name: int
    tokens: list[int]
    produced_ns: int
    finished: bool


async def serve(engine: CountingEngine, tokens_per_message: int, port: int) -> None:
    """Serve for ever."""
    await messages.serve(engine, tokens_per_message, port, PickleCodec())


class PickleCodec:
    """See the module."""

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
