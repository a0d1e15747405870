"""Splits an engine's steps into chunks of one request each, for the transports of the peers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import NamedTuple

import numpy as np

from protos.columns import PromptColumns, TokenColumns, TokenIds
from worker.engines.scripted.counting import CountingEngine

MAX_UNSENT = 65_536
"""Bound of the chunks that wait for a transport; beyond it the engine waits."""


class Chunk(NamedTuple):
    """New tokens of one request."""

    tokens: Iterable[int]
    """One or more tokens."""
    finished: bool
    """Whether this is the request's last chunk."""


Deliver = Callable[[int, Chunk], None]
"""Called with a request's name and its next chunk."""


class _Begun:
    """Tokens of one request that do not fill a chunk yet."""

    def __init__(self) -> None:
        self.pending: list[int] = []
        self.begun = False


class Cutter:
    """Runs an engine and delivers its tokens request by request."""

    def __init__(
        self,
        engine: CountingEngine,
        tokens_per_message: int,
        deliver: Deliver,
        room: Callable[[], Awaitable[None]],
    ) -> None:
        """Start without requests.

        Args:
            engine: Engine that is not started yet.
            tokens_per_message: Tokens per chunk. The first and the last token are sent at once, as with
                vLLM's --stream-interval.
            deliver: Called with each chunk.
            room: Awaited before each step; returns when the transport accepts more.
        """
        self._engine = engine
        self._tokens_per_message = tokens_per_message
        self._deliver = deliver
        self._room = room
        self._requests: dict[int, _Begun] = {}

    async def pump(self) -> None:
        """Run the engine until cancelled."""
        await self._engine.start()
        while True:
            await self._room()
            self._spread((await self._engine.step()).columns)

    def submit(self, name: int, prompt: TokenIds, max_new_tokens: int) -> None:
        """Queue one request.

        Args:
            name: Name of the request in its chunks.
            prompt: (P,) token ids.
            max_new_tokens: Answer budget.
        """
        self._requests[name] = _Begun()
        self._engine.submit(
            PromptColumns(
                requests=np.array([name], np.uint64),
                prompt_lens=np.array([len(prompt)], np.uint32),
                prompt_tokens=prompt,
                max_new_tokens=np.array([max_new_tokens], np.uint32),
                produced=np.zeros(1, np.uint32),
            )
        )

    @property
    def num_requests(self) -> int:
        """Return the number of unfinished requests."""
        return len(self._requests)

    def cancel(self, name: int) -> None:
        """Remove a request, which may already have finished."""
        if self._requests.pop(name, None) is not None:
            self._engine.cancel([name])

    def _spread(self, columns: TokenColumns) -> None:
        if columns.counts is not None:
            raise ValueError("an answer without tokens, which this benchmark does not support")
        ends = set(columns.finished_rows.tolist())
        for row, (name, token) in enumerate(
            zip(columns.requests.tolist(), columns.tokens.tolist(), strict=True)
        ):
            request = self._requests[name]
            request.pending.append(token)
            finished = row in ends
            if finished or not request.begun or len(request.pending) >= self._tokens_per_message:
                request.begun = True
                if finished:
                    del self._requests[name]
                self._deliver(name, Chunk(request.pending, finished))
                request.pending = []


class Streams:
    """One stream of chunks per request, for transports with one stream per request."""

    def __init__(self, engine: CountingEngine, tokens_per_message: int) -> None:
        """Start without requests; see Cutter."""
        self._cutter = Cutter(engine, tokens_per_message, self._put, self._room)
        self._queues: dict[int, asyncio.Queue[Chunk]] = {}
        self._num_requests = 0
        self._num_unsent = 0
        self._taken = asyncio.Event()

    async def pump(self) -> None:
        """Run the engine until cancelled."""
        await self._cutter.pump()

    async def generate(self, prompt: TokenIds, max_new_tokens: int) -> AsyncIterator[Chunk]:
        """Serve one request.

        Args:
            prompt: (P,) token ids.
            max_new_tokens: Answer budget.
        """
        name = self._num_requests
        self._num_requests += 1
        queue = self._queues[name] = asyncio.Queue()
        self._cutter.submit(name, prompt, max_new_tokens)
        try:
            finished = False
            while not finished:
                chunk = await queue.get()
                self._forget(1)
                finished = chunk.finished
                yield chunk
        finally:
            del self._queues[name]
            self._forget(queue.qsize())
            self._cutter.cancel(name)

    def _put(self, name: int, chunk: Chunk) -> None:
        self._num_unsent += 1
        self._queues[name].put_nowait(chunk)

    def _forget(self, num_chunks: int) -> None:
        self._num_unsent -= num_chunks
        if self._num_unsent < MAX_UNSENT:
            self._taken.set()

    async def _room(self) -> None:
        while self._num_unsent >= MAX_UNSENT:
            self._taken.clear()
            await self._taken.wait()
