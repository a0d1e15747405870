"""LoadGen's requests over a transport with one stream per request."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from bench.peers.driver import die
from bench.peers.streams import Chunk
from coordinator.config import RunConfig
from protos.columns import TokenIds
from sut.dataset import Dataset
from sut.sut import SUT, Reports


class Client(Protocol):
    """A connection from the driver to one server."""

    async def connect(self) -> None:
        """Connect as far as the transport can before the first request."""

    def generate(self, prompt: TokenIds, max_new_tokens: int) -> AsyncIterator[Chunk]:
        """Send one request and yield its chunks."""
        ...

    async def close(self) -> None:
        """Close all connections."""


class RequestDriver:
    """Runs one task per request. All methods but `_issue` run on the event loop."""

    def __init__(
        self, config: RunConfig, data: Dataset, max_new_tokens: int, make: Callable[[str], Client]
    ) -> None:
        """Connect LoadGen's callbacks with the clients; needs a running loop.

        Args:
            config: Configuration of the run.
            data: Data set with the prompts.
            max_new_tokens: Budget of each request.
            make: Creates the client for an address.
        """
        self._budget = max_new_tokens
        self._clients = [make(address) for address in config.workers]
        self._data = data
        self._outstanding = [0] * len(self._clients)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.sut = SUT(self._issue, die)
        self.reports = Reports(config.scenario)
        self.num_messages = 0

    async def connect(self) -> None:
        """Connect all clients."""
        await asyncio.gather(*(client.connect() for client in self._clients))

    async def settle(self) -> None:
        """Wait until every stream has ended."""
        await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Close all clients."""
        await asyncio.gather(*(client.close() for client in self._clients))

    def _issue(self, ids: list[int], samples: list[int]) -> None:
        """Accept one query.

        Thread: LoadGen's; wakes the loop.
        """
        self._loop.call_soon_threadsafe(self._start, ids, samples)

    def _start(self, ids: list[int], samples: list[int]) -> None:
        for id_, sample in zip(ids, samples, strict=True):
            task = self._loop.create_task(self._carry(id_, sample))
            self._tasks.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = task.exception()
        if error is not None:
            die(error)

    async def _carry(self, id_: int, sample: int) -> None:
        """Send one request to the least loaded server and report its chunks to LoadGen."""
        server = min(range(len(self._clients)), key=self._outstanding.__getitem__)
        self._outstanding[server] += 1
        prompt = self._data.prompt(sample)
        answer = array("i")
        async for chunk in self._clients[server].generate(prompt, self._budget):
            first = not answer
            answer.extend(chunk.tokens)
            self.num_messages += 1
            if first and self.reports.reports_first_tokens:
                self.reports.first_tokens([id_], [answer.buffer_info()[0]])
            if chunk.finished:
                self.reports.complete([id_], [answer.buffer_info()[0]], [len(answer)])
        self._outstanding[server] -= 1
        expected = min(int(prompt[0]), self._budget)
        if len(answer) != expected:
            raise RuntimeError(f"sample {sample}: {len(answer)} tokens received, {expected} expected")
