"""Record the frames of one worker, and replay them through a scheduler."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, NamedTuple, cast
from unittest import mock

import numpy as np

from coordinator.scheduling.scheduler import Scheduler, Task
from coordinator.transport.access import Access
from coordinator.transport.stream import Stream, StreamCounts
from coordinator.transport.worker_link import WorkerLink
from protos import worker_pb2 as pb
from protos.columns import CHANNEL_OPTIONS, PROTOCOL_VERSION, PromptColumns, TokenColumns, pack_tokens
from sut.dataset import Dataset
from sut.sut import Reports
from worker.engines.scripted.simulated import SimulatedConfig, SimulatedEngine
from worker.outbox import merge

VOCAB_SIZE = 201_088
# gpt-oss: ids that end an answer, and <|channel|>, an id above the lowest of them that ends nothing.
STOP_TOKEN_IDS = (199_999, 200_002, 200_012)
CHANNEL_ID = 200_005
# <|channel|>, <|message|>, <|start|> and <|end|> of an answer's two messages.
SPECIAL_TOKENS_PER_ANSWER = 7
BUDGET = 10_240
# Finished answers are passed on every 2 s, frames come every 40 ms.
FRAMES_PER_FLUSH = 50


class Load(NamedTuple):
    """Requests of a recording."""

    num_requests: int
    num_running: int
    """Requests that the engine runs at once."""
    answer_lens: tuple[int, int]
    """Shortest and longest answer, in tokens."""
    steps_per_frame: int
    """Engine steps merged into one frame."""
    is_server: bool


class SilentReports:
    """LoadGen's end: drops every report, as a LoadGen that takes no time would."""

    def __init__(self, is_server: bool) -> None:
        self.reports_first_tokens = is_server

    def first_tokens(self, *_: Any) -> None:
        """Drop first tokens."""

    def complete(self, *_: Any) -> None:
        """Drop completions."""


class SubmittedPrompts:
    """A stream without a socket: keeps the prompts that were sent."""

    def __init__(self) -> None:
        self.counts = StreamCounts()
        self.prompts: list[PromptColumns] = []

    def send(self, prompts: PromptColumns) -> None:
        """Keep prompts."""
        self.prompts.append(prompts)


class ReplayLink(WorkerLink):
    """A link to no worker."""

    def __init__(self, num_running: int) -> None:
        """Describe a worker with gpt-oss's vocabulary and stop ids."""
        super().__init__(0, "replay:1", Access())
        self.info.MergeFrom(
            pb.WorkerInfo(max_num_seqs=num_running, vocab_size=VOCAB_SIZE, stop_token_ids=STOP_TOKEN_IDS)
        )
        self.submitted = SubmittedPrompts()
        self._stream = self.submitted  # type: ignore[assignment]  # has what a scheduler uses

    def _connect(self) -> Any:
        return None


class Replay:
    """A scheduler that got the requests of a load; equal loads give equal request names."""

    def __init__(self, load: Load) -> None:
        """Issue all requests in one query."""
        rng = np.random.default_rng(17)
        shortest, longest = load.answer_lens
        lens = rng.integers(shortest, longest + 1, load.num_requests).astype(np.int32)
        prompts = np.column_stack([lens, np.full_like(lens, 7), 1000 * np.arange(len(lens), dtype=np.int32)])
        dataset = Dataset(
            path=Path("replay"), sha256="", tokens=prompts.ravel(), offsets=3 * np.arange(len(lens) + 1)
        )
        self.link = ReplayLink(load.num_running)
        reports = cast(Reports, SilentReports(load.is_server))
        task = Task(dataset, reports, BUDGET, max_losses=3, keep=lambda *_: None)
        loop = cast(asyncio.AbstractEventLoop, mock.Mock(call_soon_threadsafe=lambda callback: callback()))
        with mock.patch("secrets.randbits", return_value=0):
            self.scheduler = Scheduler(task, [self.link], _raise, loop)
        self.scheduler.admit(0)
        samples = list(range(load.num_requests))
        self.scheduler.issue(samples, samples)
        self._num_requests = load.num_requests
        self._num_frames = 0

    def deliver(self, columns: TokenColumns) -> None:
        """Deliver the next frame; finished answers are passed on, and their slots are free, now and then."""
        self.scheduler.deliver(0, columns)
        self._num_frames += 1
        if self._num_frames % FRAMES_PER_FLUSH == 0:
            self.scheduler.keep_answers()

    async def take(self, address: str) -> None:
        """Read and deliver all frames of a sender over gRPC, as a run does."""
        async with Access().channel(address, CHANNEL_OPTIONS) as channel:
            stream = Stream(address, channel, metadata=None)
            await stream.open(pb.Open(protocol_version=PROTOCOL_VERSION, run_id="replay"))
            self._carried = asyncio.ensure_future(stream.carry(self._deliver))
            with contextlib.suppress(asyncio.CancelledError):
                await self._carried
            stream.cancel()
        self.scheduler.keep_answers()
        assert self.scheduler.table.num_done == self._num_requests

    def _deliver(self, columns: TokenColumns) -> None:
        self.deliver(columns)
        if self.scheduler.table.num_done == self._num_requests:
            self._carried.cancel()


async def record(load: Load) -> list[bytes]:
    """Run a load on a simulated engine, as fast as it goes; returns its frames, serialized."""
    engine = SimulatedEngine(SimulatedConfig(max_num_seqs=load.num_running), wait=_no_wait)
    rng = np.random.default_rng(18)
    special_share = SPECIAL_TOKENS_PER_ANSWER / (sum(load.answer_lens) / 2)
    replay, frames, steps = Replay(load), list[bytes](), list[TokenColumns]()
    table, submitted = replay.scheduler.table, replay.link.submitted
    while table.num_done < load.num_requests:
        for prompts in submitted.prompts:
            engine.submit(prompts)
        submitted.prompts.clear()
        while len(steps) < load.steps_per_frame and engine.load().running + engine.load().waiting:
            steps.append((await engine.step()).columns)
        columns = merge(steps)
        steps.clear()
        tokens = columns.tokens.copy()
        tokens[(rng.random(len(tokens)) < special_share) & (tokens < STOP_TOKEN_IDS[0])] = CHANNEL_ID
        columns = columns._replace(tokens=tokens)
        message = pb.FromWorker(tokens=pack_tokens(columns, len(frames)))
        frames.append(message.SerializeToString())
        replay.deliver(columns)
    return frames


async def _no_wait(_: float) -> None:
    """Take no time for a step."""


def _raise(reason: str) -> None:
    raise AssertionError(reason)
