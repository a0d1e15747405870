"""One engine, one stream of chunks per request: what a per-request transport serves."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

import numpy as np

from protos.frames import PromptColumns, TokenColumns, TokenIds
from worker.counting_engine import CountingEngine


class Chunk(NamedTuple):
    """New tokens of one request."""

    tokens: Iterable[int]
    """At least one."""
    produced_ns: int
    """When the engine handed the last of them over, monotonic clock of the machine."""
    finished: bool
    """No more will come."""


class _Stream:
    """The chunks of one request that have not been sent yet."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[Chunk] = asyncio.Queue()
        self.pending: list[int] = []
        self.begun = False


class Streams:
    """Spreads an engine's steps over its requests."""

    def __init__(self, engine: CountingEngine, tokens_per_message: int) -> None:
        """Start with no request.

        Args:
            engine: Not started.
            tokens_per_message: Tokens of a chunk. The first token leaves at once, and so does the last, as
                with vLLM's --stream-interval.
        """
        self._engine = engine
        self._tokens_per_message = tokens_per_message
        self._streams: dict[int, _Stream] = {}
        self._num_requests = 0

    async def pump(self) -> None:
        """Run the engine for ever."""
        await self._engine.start()
        while True:
            self._spread((await self._engine.step()).columns)

    async def generate(self, prompt: TokenIds, max_new_tokens: int) -> AsyncIterator[Chunk]:
        """Serve one request.

        Args:
            prompt: (P,) token ids.
            max_new_tokens: Longest answer.
        """
        name = self._num_requests
        self._num_requests += 1
        stream = self._streams[name] = _Stream()
        self._engine.submit(
            PromptColumns(
                requests=np.array([name], np.uint64),
                prompt_lens=np.array([len(prompt)], np.uint32),
                prompt_tokens=prompt,
                max_new_tokens=np.array([max_new_tokens], np.uint32),
                produced=np.zeros(1, np.uint32),
            )
        )
        try:
            finished = False
            while not finished:
                chunk = await stream.chunks.get()
                finished = chunk.finished
                yield chunk
        finally:
            del self._streams[name]
            self._engine.cancel([name])

    def _spread(self, columns: TokenColumns) -> None:
        if columns.counts is not None:
            raise ValueError("an answer without tokens: this benchmark has none")
        ends = set(columns.finished_rows.tolist())
        for row, (name, token) in enumerate(
            zip(columns.requests.tolist(), columns.tokens.tolist(), strict=True)
        ):
            stream = self._streams[name]
            stream.pending.append(token)
            finished = row in ends
            if finished or not stream.begun or len(stream.pending) >= self._tokens_per_message:
                stream.begun = True
                stream.chunks.put_nowait(Chunk(stream.pending, columns.produced_ns, finished))
                stream.pending = []


"""The wire's mark of a last chunk."""
