"""What drivers over a ZMQ socket per worker have in common."""

import asyncio
from array import array

from bench.peers.driver import die, die_on_loop_errors
from bench.peers.zmq_sockets import WorkerLink
from coordinator.config import RunConfig
from sut.dataset import Dataset
from sut.sut import SUT


class ZmqDriver:
    """LoadGen's calls at one end, links at the other; everything but `_issue` runs on the event loop."""

    def __init__(self, config: RunConfig, data: Dataset, max_new_tokens: int) -> None:
        """Connect LoadGen's calls with the workers; needs a running loop.

        Args:
            config: The run.
            data: Its prompts.
            max_new_tokens: Budget of each request.
        """
        die_on_loop_errors()
        self._addresses = config.workers
        self._data = data
        self._budget = max_new_tokens
        self._links: list[WorkerLink] = []
        self._loop = asyncio.get_running_loop()
        self.sut = SUT(config.scenario, self._issue, die)
        self.report_delays_ns = array("q")

    @property
    def num_messages(self) -> int:
        """Messages with tokens or an end."""
        return sum(link.num_messages for link in self._links)

    @property
    def num_requests(self) -> int:
        """Requests in flight."""
        raise NotImplementedError

    async def settle(self) -> None:
        """Check that nothing is in flight.

        Raises:
            RuntimeError: Something is, though LoadGen counts all as complete.
        """
        if self.num_requests:
            raise RuntimeError(f"{self.num_requests} requests in flight after the end")

    async def close(self) -> None:
        """Close all links."""
        for link in self._links:
            link.close()

    def _issue(self, ids: list[int], samples: list[int]) -> None:
        """Take one query.

        Thread: LoadGen's; wakes the loop.
        """
        self._loop.call_soon_threadsafe(self._start, ids, samples)

    def _start(self, ids: list[int], samples: list[int]) -> None:
        """Send each request to a worker."""
        raise NotImplementedError
