"""Record the frames of one worker, and replay them through a scheduler."""

import asyncio
import contextlib
import time
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

    def first_tokens(self, *_: Any) -> tuple[int, int]:
        """Drop first tokens; returns the times of the call."""
        return time.monotonic_ns(), time.monotonic_ns()

    def complete(self, *_: Any) -> tuple[int, int]:
        """Drop completions; returns the times of the call."""
        return time.monotonic_ns(), time.monotonic_ns()


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

    def __init__(self, num_running: int, stream: Stream | SubmittedPrompts) -> None:
        """Describe a worker with gpt-oss's vocabulary and stop ids; prompts go to `stream`."""
        super().__init__(0, "replay:1", Access())
        self.info.MergeFrom(
            pb.WorkerInfo(max_num_seqs=num_running, vocab_size=VOCAB_SIZE, stop_token_ids=STOP_TOKEN_IDS)
        )
        self._stream = cast(Stream, stream)

    def _connect(self) -> Any:
        return None


class Replay:
    """A scheduler that gets the requests of a load; equal loads give equal request names.

    Server: one query for each request that the engine runs, and another one whenever a request has finished.
    Offline: one query with all requests.
    """

    def __init__(self, load: Load, stream: Stream | SubmittedPrompts) -> None:
        """Issue the first queries.

        Args:
            load: What is issued.
            stream: Where the scheduler sends prompts.
        """
        rng = np.random.default_rng(17)
        shortest, longest = load.answer_lens
        lens = rng.integers(shortest, longest + 1, load.num_requests).astype(np.int32)
        prompts = np.column_stack([lens, np.full_like(lens, 7), 1000 * np.arange(len(lens), dtype=np.int32)])
        dataset = Dataset(
            path=Path("replay"), sha256="", tokens=prompts.ravel(), offsets=3 * np.arange(len(lens) + 1)
        )
        link = ReplayLink(load.num_running, stream)
        reports = cast(Reports, SilentReports(load.is_server))
        task = Task(dataset, reports, BUDGET, max_losses=3, keep=lambda *_: None)
        loop = cast(asyncio.AbstractEventLoop, mock.Mock(call_soon_threadsafe=lambda callback: callback()))
        with mock.patch("secrets.randbits", return_value=0):
            self.scheduler = Scheduler(task, [link], _raise, loop)
        self.scheduler.admit(0)
        self._load = load
        self._num_frames = self._num_issued = 0
        self._issue()

    @property
    def is_complete(self) -> bool:
        """Whether all requests have finished."""
        return self.scheduler.table.num_done == self._load.num_requests

    def deliver(self, columns: TokenColumns) -> None:
        """Deliver the next frame; finished answers are passed on now and then."""
        self.scheduler.deliver(0, columns)
        self._issue()
        self._num_frames += 1
        if self._num_frames % FRAMES_PER_FLUSH == 0:
            self.scheduler.keep_answers()

    def _issue(self) -> None:
        load, done = self._load, self.scheduler.table.num_done
        due = min(load.num_running + done, load.num_requests) if load.is_server else load.num_requests
        samples = list(range(self._num_issued, due))
        self._num_issued = due
        for query in [[sample] for sample in samples] if load.is_server else filter(None, [samples]):
            self.scheduler.issue(query, query)


async def take(load: Load, address: str) -> None:
    """Read and deliver all frames of a sender over gRPC, and send the prompts, as a run does."""
    async with Access().channel(address, CHANNEL_OPTIONS) as channel:
        stream = Stream(address, channel, metadata=None)
        await stream.open(pb.Open(protocol_version=PROTOCOL_VERSION, run_id="replay"))
        replay = Replay(load, stream)

        def deliver(columns: TokenColumns) -> None:
            replay.deliver(columns)
            if replay.is_complete:
                carried.cancel()

        carried = asyncio.ensure_future(stream.carry(deliver))
        with contextlib.suppress(asyncio.CancelledError):
            await carried
        stream.cancel()
    replay.scheduler.keep_answers()
    assert replay.is_complete


async def record(load: Load) -> list[bytes]:
    """Run a load on a simulated engine, as fast as it goes; returns its frames, serialized."""
    engine = SimulatedEngine(SimulatedConfig(max_num_seqs=load.num_running), wait=_no_wait)
    rng = np.random.default_rng(18)
    special_share = SPECIAL_TOKENS_PER_ANSWER / (sum(load.answer_lens) / 2)
    submitted = SubmittedPrompts()
    replay, frames, steps = Replay(load, submitted), list[bytes](), list[TokenColumns]()
    while not replay.is_complete:
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
