"""Mutated messages to the coordinator: each ends its stream, and none of its tokens counts."""

import asyncio
import collections
import copy
import itertools
import logging
from collections.abc import Iterator
from typing import cast

import pytest

from coordinator.scheduling import scheduler
from coordinator.scheduling.scheduler import Scheduler, Task
from coordinator.transport import stream
from coordinator.transport.access import Access
from coordinator.transport.agreement import Agreement
from coordinator.transport.stream import WorkerLost
from coordinator.transport.worker_link import WorkerLink
from protos import worker_pb2 as pb
from protos.columns import PROTOCOL_VERSION, TokenColumns, pack_tokens
from protos.hashes import engine_hash
from sut.sut import Reports
from tests.coordinator.scheduling.links import STOP, STOP_ID, FakeLink, dataset, frame
from tests.coordinator.scheduling.test_scheduler import ImmediateLoop, RecordedReports
from tests.faults.frame_model import MAX_NS, VOCAB_SIZE, Held
from tests.faults.fuzz import mutations
from tests.faults.garbler import Call, Garbler

logger = logging.getLogger(__name__)

BUDGET = 12
SAMPLES = range(8)
STEP_TIMEOUT_S = 60.0
MAX_FRAMES_PER_STREAM = 20
# 100,000 frames.
LONG = [pytest.param(seed, 10_000, marks=pytest.mark.long) for seed in range(1, 11)]
SPEC = pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=BUDGET)
OPEN = pb.Open(protocol_version=PROTOCOL_VERSION, run_id="fuzz", spec=SPEC)
INFO = pb.WorkerInfo(
    protocol_version=PROTOCOL_VERSION,
    instance_id="garbler",
    max_num_seqs=64,
    max_model_len=4096,
    vocab_size=VOCAB_SIZE,
    stop_token_ids=[STOP_ID],
)
INFO.engine_hash = engine_hash(INFO)


def answer(sample: int) -> list[int]:
    """Return a sample's correct answer: 10 tokens."""
    return [*(100 * sample + k for k in range(9)), STOP_ID]


def tokens_frame(names: dict[int, int], first: int, num: int, sequence: int, ends: bool = False) -> bytes:
    """Serialize a good frame with some tokens of all requests, given as name -> sample."""
    rows = [(name, answer(sample)[first : first + num]) for name, sample in names.items()]
    columns = frame(rows, dict.fromkeys(range(len(rows)), STOP) if ends else {})
    return pb.FromWorker(tokens=pack_tokens(columns, sequence)).SerializeToString()


class Scene:
    """One stream to a garbler and one honest worker beside it, on a fresh request table."""

    def __init__(self, link: WorkerLink) -> None:
        """Set up both; no stream is open yet.

        Args:
            link: To the garbler, without a stream.
        """
        self.reports = RecordedReports(reports_first_tokens=True)
        self.failures: list[str] = []
        prompts = dataset(*([sample, 5] for sample in SAMPLES))
        task = Task(prompts, cast(Reports, self.reports), BUDGET, 3, keep=lambda *_: None)
        self.link = link
        link.info.CopyFrom(INFO)
        self.honest = FakeLink(1)
        loop = cast(asyncio.AbstractEventLoop, ImmediateLoop())
        self.scheduler = Scheduler(task, [self.link, self.honest], self.failures.append, loop)
        self.table = self.scheduler.table
        self.delivered = asyncio.Event()

    async def open(self) -> None:
        """Open the stream, issue all samples, and deliver the honest worker's first tokens."""
        await self.link.open(OPEN, Agreement(SPEC, self.link.address, INFO).check_opened)
        self.scheduler.admit(0)
        self.scheduler.admit(1)
        self.scheduler.issue([1000 + sample for sample in SAMPLES], list(SAMPLES))
        self.names = [self._names(index) for index in (0, 1)]
        self.scheduler.deliver(1, frame([(name, answer(s)[:3]) for name, s in self.names[1].items()]))
        self.held = Held(BUDGET, {name: [] for name in self.names[0]})
        self.carry = asyncio.ensure_future(self.link.stream.carry(self._deliver))

    def _names(self, index: int) -> dict[int, int]:
        slots = self.table.held_by(index)
        samples = self.table.rows(slots)["sample"].tolist()
        return dict(zip(self.table.names(slots).tolist(), samples, strict=True))

    def _deliver(self, columns: TokenColumns) -> None:
        self.scheduler.deliver(0, columns)
        if not len(columns.requests):
            self.delivered.set()

    async def survives(self, call: Call, message: bytes) -> bool:
        """Send a message and an empty frame; False if the stream ended before the empty frame."""
        before = copy.deepcopy(self.held)
        good = self.held.take(message)
        self.delivered.clear()
        await call.say(message)
        await call.say(tokens_frame({}, 0, 0, self.held.sequence))
        came = asyncio.ensure_future(self.delivered.wait())
        async with asyncio.timeout(STEP_TIMEOUT_S):
            await asyncio.wait((came, self.carry), return_when=asyncio.FIRST_COMPLETED)
        came.cancel()
        if self.carry.done():
            assert isinstance(self.carry.exception(), WorkerLost), (self.carry.exception(), message)
            assert not good, message
            self.held = before
            return False
        self.held.sequence += 1
        return True

    async def end(self) -> str:
        """Lose the garbler and let the honest worker finish all answers; returns why the stream ended."""
        reason = "cancelled"
        if self.carry.done():
            error = self.carry.exception()
            assert isinstance(error, WorkerLost), repr(error)
            reason = error.reason
        self.carry.cancel()
        self.link.stream.cancel()
        await asyncio.gather(self.carry, return_exceptions=True)
        self.scheduler.lose(0, reason)
        self.check_continued()
        held = self._names(1)
        counts = self.table.reportable(self.table.held_by(1).tolist()).counts
        rows = [(n, answer(s)[c:] or [STOP_ID]) for (n, s), c in zip(held.items(), counts, strict=True)]
        self.scheduler.deliver(1, frame(rows, dict.fromkeys(range(len(rows)), STOP)))
        self.check_reported()
        return reason

    def check_continued(self) -> None:
        """Check that each resubmitted prompt is the original one plus the valid tokens of good frames."""
        sent = self.honest.sent
        continued = {
            prompt[0]: prompt[len(prompt) - produced :]
            for prompt, produced in zip(sent.prompts, sent.produced, strict=True)
            if prompt[0] in self.names[0].values()
        }
        left = {self.names[0][name]: tokens for name, tokens in self.held.kept().items()}
        # An answer that has its whole budget lacks nothing but the word of its end.
        assert {s: tokens for s, tokens in left.items() if len(tokens) < BUDGET} == continued

    def check_reported(self) -> None:
        """Check that each answer was reported to LoadGen once: as received in frames, or the correct one."""
        ended = {self.names[0][name]: tokens for name, tokens in self.held.ended.items()}
        brought = {self.names[0][name]: tokens for name, tokens in self.held.kept().items()}
        expected = []
        for sample in SAMPLES:
            tokens = ended.get(sample)
            if tokens is None:
                begun = brought.get(sample, answer(sample)[:3])
                tokens = (
                    begun if len(begun) == BUDGET else begun + (answer(sample)[len(begun) :] or [STOP_ID])
                )
            expected.append((1000 + sample, tokens))
        assert expected == sorted(self.reports.answers)
        assert [(id_, tokens[0]) for id_, tokens in expected if tokens] == sorted(self.reports.firsts)
        assert [] == self.failures


def good_messages(names: dict[int, int]) -> list[bytes]:
    """List an honest worker's messages in place of the garbler's, from the first token to the last.

    An empty frame comes between two of them (see Scene.survives).
    """
    return [
        tokens_frame(names, 0, 1, 0),
        tokens_frame(names, 1, 4, 2),
        tokens_frame(names, 5, 5, 4, ends=True),
        pb.FromWorker(pong=pb.Pong(nonce=0, worker_ns=9)).SerializeToString(),
        pb.FromWorker(opened=pb.Opened(info=INFO, spec_hash="x", run_id="fuzz")).SerializeToString(),
        # A kind that this protocol does not have: field 3, one request's name and a reason.
        b"\x1a\x0d\x0a\x08" + min(names).to_bytes(8, "little") + b"\x12\x01?",
    ]


def hostile_messages(names: dict[int, int], foreign: int) -> list[bytes]:
    """List frames with valid digests whose content a worker must not send.

    Args:
        names: Its requests and their samples.
        foreign: A request of the other worker.
    """
    mine = min(names)
    messages = []
    for sequence in (0, 2, 4):
        for rows in (
            [(foreign, [7])],
            [(mine, [7]), (mine, [8])],
            [(mine, [7] * (BUDGET + 1))],
            [(mine, [7, VOCAB_SIZE])],
            [(mine, [-1])],
            # Another generation of the slot, and a slot that there is not.
            [(mine + (1 << 32), [7])],
            [(1 << 31, [7])],
        ):
            frame_ = pack_tokens(frame(rows), sequence)
            messages.append(pb.FromWorker(tokens=frame_).SerializeToString())
        late = pack_tokens(frame([(mine, [7])])._replace(produced_ns=MAX_NS + 1), sequence)
        messages.append(pb.FromWorker(tokens=late).SerializeToString())
    return messages


class Fuzzer:
    """Consecutive scenes and the reasons for which their streams ended."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._names: dict[int, int] = {}
        self._calls: asyncio.Queue[Call] = asyncio.Queue()
        self.reasons: collections.Counter[str] = collections.Counter()
        self.num_frames = 0
        self.num_survived = 0

    async def run(self, num_frames: int) -> None:
        """Send this number of mutated messages, after zero to three good ones on each stream."""
        frames: Iterator[bytes] | None = None
        async with Garbler(INFO, self._play).serving() as address:
            link = WorkerLink(0, address, Access())
            while self.num_frames < num_frames:
                scene = Scene(link)
                await scene.open()
                call = await self._calls.get()
                good = good_messages(scene.names[0])
                assert self._names in ({}, scene.names[0])
                if frames is None:
                    self._names = scene.names[0]
                    hostile = hostile_messages(self._names, min(scene.names[1]))
                    frames = mutations(self._seed, good * 4 + hostile, pb.FromWorker)
                for message in good[: self.num_frames % 4]:
                    assert await scene.survives(call, message)
                await self._send(scene, call, frames)
                reason = await scene.end()
                self.reasons[reason.partition(":")[0]] += 1
            await link.close()

    async def _send(self, scene: Scene, call: Call, frames: Iterator[bytes]) -> None:
        for message in itertools.islice(frames, MAX_FRAMES_PER_STREAM):
            self.num_frames += 1
            if not await scene.survives(call, message):
                return
            self.num_survived += 1

    async def _play(self, call: Call) -> None:
        await self._calls.put(call)
        async for _ in call.requests:
            pass


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait for the status of a broken stream, and silence gRPC's log of rejected messages."""
    monkeypatch.setattr(stream, "STATUS_TIMEOUT_S", 0.001)
    # The same request names in every scene.
    monkeypatch.setattr(scheduler.secrets, "randbits", lambda _: 0)
    for name in ("grpc._common", "grpc._cython.cygrpc"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", True)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("seed", "num_frames"), [(0, 1000), *LONG])
def test_no_message_breaks_a_coordinator(seed: int, num_frames: int) -> None:
    """A mutated message is still valid or ends its stream; no other error, no token lost or invented."""
    fuzzer = Fuzzer(seed)
    asyncio.run(fuzzer.run(num_frames))
    logger.info("%d frames: %d taken, streams ended: %s", num_frames, fuzzer.num_survived, fuzzer.reasons)
    # Both kinds occurred: the mutations are neither all harmless nor all fatal.
    assert fuzzer.num_survived > num_frames // 25
    assert fuzzer.reasons["bad frame"] > num_frames // 20
