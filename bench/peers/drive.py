"""`python -m bench.peers.drive grpc|sse FLAGS`: LoadGen over a per-request transport.

The flags are the coordinator's. LoadGen, the data set, the settings and the reports are the product's own
(`sut`), and so is the care for the interpreter; only the way of the tokens differs. Leaves LoadGen's files
and a run.json with the one figure that LoadGen does not have.
"""

import asyncio
import dataclasses
import gc
import json
import logging
import os
import sys
import time
from array import array
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import numpy as np

from bench.peers import grpc_stream, http_sse
from bench.peers.streams import Chunk
from coordinator.config import RunConfig, parse
from coordinator.record import Spread
from coordinator.run import SWITCH_INTERVAL_S
from protos.frames import TokenIds
from sut import dataset, settings
from sut.loadgen import LoadGenTest
from sut.sut import SUT

logger = logging.getLogger("bench.peers.drive")


class Client(Protocol):
    """One server as the driver sees it."""

    async def connect(self) -> None:
        """Connect, as far as the transport can before there are requests."""

    def generate(self, prompt: TokenIds, max_new_tokens: int) -> AsyncIterator[Chunk]:
        """Send one request and take its chunks."""
        ...

    async def close(self) -> None:
        """Close all connections."""


CLIENTS: dict[str, Callable[[str], Client]] = {"grpc": grpc_stream.Client, "sse": http_sse.Client}


class Driver:
    """The requests in flight; everything but `issue` runs on the event loop, in the main thread."""

    def __init__(self, config: RunConfig, clients: list[Client], data: dataset.Dataset) -> None:
        """Connect LoadGen's calls with the clients; needs a running loop."""
        if config.max_new_tokens is None:
            raise ValueError("--max-new-tokens: missing")
        self._budget = config.max_new_tokens
        self._clients = clients
        self._data = data
        self._outstanding = [0] * len(clients)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self.sut = SUT(config.scenario, self.issue, _die)
        self.report_delays_ns = array("q")
        """Per first token and per completion: LoadGen told minus produced."""

    def issue(self, ids: list[int], samples: list[int]) -> None:
        """Take one query.

        Thread: LoadGen's; wakes the loop.
        """
        self._loop.call_soon_threadsafe(self._start, ids, samples)

    async def settle(self) -> None:
        """Wait until every stream has ended."""
        await asyncio.gather(*self._tasks)

    def _start(self, ids: list[int], samples: list[int]) -> None:
        for id_, sample in zip(ids, samples, strict=True):
            task = self._loop.create_task(self._carry(id_, sample))
            self._tasks.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = task.exception()
        if error is not None:
            _die(error)

    async def _carry(self, id_: int, sample: int) -> None:
        """Send one request to the least loaded server and report what comes back."""
        server = min(range(len(self._clients)), key=self._outstanding.__getitem__)
        self._outstanding[server] += 1
        prompt = self._data.prompt(sample)
        answer = array("i")
        async for chunk in self._clients[server].generate(prompt, self._budget):
            first = not answer
            answer.extend(chunk.tokens)
            if first:
                self.sut.first_tokens([id_], [answer.buffer_info()[0]])
            if chunk.finished:
                self.sut.complete([id_], [answer.buffer_info()[0]], [len(answer)])
            if first or chunk.finished:
                self.report_delays_ns.append(time.monotonic_ns() - chunk.produced_ns)
        self._outstanding[server] -= 1
        expected = min(int(prompt[0]), self._budget)
        if len(answer) != expected:
            raise RuntimeError(f"sample {sample}: {len(answer)} tokens came, not {expected}")


def _die(error: BaseException) -> None:
    """End the process: LoadGen has no abort, and its test would wait for ever.

    Thread: any.
    """
    logger.error("run failed", exc_info=error)
    os._exit(1)


async def run(config: RunConfig, transport: str) -> None:
    """Run one LoadGen test.

    Raises:
        ValueError: An input that `sut` refuses.
        RuntimeError: LoadGen left no summary.
    """
    data = dataset.load(config.input_file)
    user_text = "" if config.user_conf is None else settings.read_conf("--user-conf", config.user_conf)
    conf = settings.compose_user_conf(
        user_text,
        scenario=config.scenario,
        mode=config.mode,
        num_samples=data.num_samples,
        target_qps=config.target_qps,
    )
    test = LoadGenTest(conf, config.scenario, config.mode)
    config.run_dir.mkdir(parents=True)
    clients = [CLIENTS[transport](address) for address in config.workers]
    await asyncio.gather(*(client.connect() for client in clients))
    driver = Driver(config, clients, data)
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    await asyncio.to_thread(test.run, data.num_samples, driver.sut.issue_queries, config.run_dir, None)
    driver.sut.close()
    await driver.settle()
    await asyncio.gather(*(client.close() for client in clients))
    spread = Spread.of(np.array(driver.report_delays_ns))
    record = {"summary": {"report_delay_ns": dataclasses.asdict(spread)}}
    (config.run_dir / "run.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    asyncio.run(run(parse(sys.argv[2:]), sys.argv[1]))
