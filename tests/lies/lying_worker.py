"""A worker over a real socket that is honest but for one lie, and a run of it beside an honest one.

Answers are those of the counting engine. A lie changes one step of the script: an answer to a question about
the worker, the answer to `open`, the rows of the frames, or the packed messages.
"""

import asyncio
import contextlib
import types
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import grpc
import numpy as np
from grpc_health.v1 import health_pb2

import coordinator.transport.stream
from coordinator.recording.finished_requests import collect_requests
from coordinator.recording.run_counts import collect_counts
from coordinator.scheduling.event_loop import ActiveRun, opening_of
from coordinator.scheduling.scheduler import Scheduler, Task
from coordinator.transport.access import Access
from coordinator.transport.agreement import FleetError
from coordinator.transport.engine_reading import EngineReading
from coordinator.transport.fleet import Fleet, Patience
from coordinator.transport.stream import Limits, WorkerLost
from protos import worker_pb2 as pb
from protos.columns import (
    CHANNEL_OPTIONS,
    PROTOCOL_VERSION,
    SERVICE,
    TokenColumns,
    pack_tokens,
    unpack_submit,
)
from protos.hashes import engine_hash, run_hash
from sut.results.checks import Counts
from sut.results.timing.request_records import RequestRecords
from sut.sut import Reports
from tests import fleet
from tests.coordinator.scheduling.links import dataset
from tests.coordinator.scheduling.test_scheduler import RecordedReports

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
STOP_ID, VOCAB_SIZE = fleet.STOP, 201_088
BUDGET = 12
SPEC = pb.RunSpec(temperature=0.0, top_p=1.0, top_k=-1, max_new_tokens=BUDGET)
# Answers of 4 to 11 tokens that end with the stop id, and some of 12 that end with the budget.
PROMPTS = [[4 + i % 10, 7, 1000 * (i + 1)] for i in range(16)]
END_TIMEOUT_S = 60.0
# A timeout that expires in a test. A process that stands still for a while adds at most 0.2 s to it.
SHORT_S = 0.8
SERVING = health_pb2.HealthCheckResponse.SERVING


class Row(NamedTuple):
    """The new tokens of one request in one frame, and how it ends."""

    name: int
    tokens: list[int]
    reason: int | None = None


Step = list[Row]


def honest_info(instance_id: str) -> pb.WorkerInfo:
    """Describe an honest worker."""
    info = pb.WorkerInfo(
        protocol_version=PROTOCOL_VERSION,
        instance_id=instance_id,
        state=pb.WORKER_STATE_READY,
        engine="counting",
        engine_version="1",
        model="counting",
        model_hash="c" * 64,
        vocab_size=VOCAB_SIZE,
        max_model_len=4096,
        max_num_seqs=8,
        stop_token_ids=[STOP_ID],
        coordinator_timeout_s=15.0,
        pid=7,
    )
    info.engine_hash = engine_hash(info)
    return info


def same(value: Any) -> Any:
    """Change nothing."""
    return value


@dataclass(frozen=True)
class Lie:
    """One lie; what is not given is honest."""

    health: Callable[[bytes], bytes] = same
    info: Callable[[pb.WorkerInfo], pb.WorkerInfo | bytes] = same
    """May change the message, or replace it by raw bytes."""
    opened: Callable[[pb.Opened], pb.FromWorker | bytes | None] = lambda opened: pb.FromWorker(opened=opened)
    """None: no answer."""
    steps: Callable[[list[Step]], list[Step]] = same
    """The frames of a submit as rows: first tokens, all but the last token, ends."""
    frames: Callable[[list[bytes]], list[bytes]] = same
    """The same frames, packed."""
    pong: Callable[[pb.Pong], pb.Pong | None] = same
    status: tuple[grpc.StatusCode, str] | None = None
    """Ends the stream with it after the first submit."""
    patience_s: float = 30.0
    """Each timeout of the run; short for a lie that lets one expire."""


class Worker:
    """Serves one worker; every stream plays the same script."""

    def __init__(self, instance_id: str, lie: Lie, breaks_first: bool = False) -> None:
        """Create it.

        Args:
            instance_id: Its identity.
            lie: What it does differently.
            breaks_first: Its first stream breaks at its first submit, and only then it lies.
        """
        self._instance_id, self._lie, self._honest = instance_id, lie, breaks_first
        self.num_questions = 0
        """Calls of health and GetInfo since it lies."""
        self._service = grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "GetInfo": grpc.unary_unary_rpc_method_handler(self._get_info),
                "Generate": grpc.stream_stream_rpc_method_handler(self._generate, pb.ToWorker.FromString),
            },
        )
        self._health = grpc.method_handlers_generic_handler(
            "grpc.health.v1.Health", {"Check": grpc.unary_unary_rpc_method_handler(self._check)}
        )

    @property
    def lie(self) -> Lie:
        """What it does differently now."""
        return Lie() if self._honest else self._lie

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serve on a free port for a block; yields the address."""
        server = grpc.aio.server(options=CHANNEL_OPTIONS)
        server.add_generic_rpc_handlers((self._service, self._health))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        self.port = int(address.rpartition(":")[2])
        await server.start()
        try:
            yield address
        finally:
            await server.stop(grace=None)

    async def _check(self, _: bytes, context: Any) -> bytes:
        self.num_questions += not self._honest
        return self.lie.health(health_pb2.HealthCheckResponse(status=SERVING).SerializeToString())

    async def _get_info(self, _: bytes, context: Any) -> bytes:
        self.num_questions += not self._honest
        info = self.lie.info(honest_info(self._instance_id))
        return info if isinstance(info, bytes) else info.SerializeToString()

    async def _generate(self, requests: AsyncIterator[pb.ToWorker], context: Any) -> None:
        lie, clock, num_produced, sequence = self.lie, 0, 0, 0
        async for message in requests:
            kind = message.WhichOneof("message")
            if kind == "open":
                info = honest_info(self._instance_id)
                opened = pb.Opened(info=info, spec_hash=run_hash(message.open.spec, info), run_id="lies")
                await _say(context, lie.opened(opened))
            elif kind == "ping":
                clock += 1
                pong = pb.Pong(nonce=message.ping.nonce, worker_ns=clock, produced_tokens=num_produced)
                answer = lie.pong(pong)
                await _say(context, None if answer is None else pb.FromWorker(pong=answer))
            elif kind == "submit":
                if self._honest and self._lie is not lie:
                    self._honest = False
                    return
                if lie.status is not None:
                    await context.abort(*lie.status)
                steps = lie.steps(steps_of(message.submit))
                num_produced += sum(len(row.tokens) for step in steps for row in step)
                for frame in lie.frames([pack(step, sequence + i) for i, step in enumerate(steps)]):
                    await _say(context, frame)
                sequence += len(steps)


async def _say(context: Any, message: pb.FromWorker | bytes | None) -> None:
    if message is not None:
        raw = message if isinstance(message, bytes) else message.SerializeToString()
        with contextlib.suppress(grpc.aio.InternalError, asyncio.InvalidStateError):
            await context.write(raw)


def steps_of(submit: pb.Submit) -> list[Step]:
    """Compute the rest of each answer of a submit, in three frames."""
    columns = unpack_submit(submit)
    ends = columns.prompt_lens.cumsum(dtype=np.int64).tolist()
    steps: list[Step] = [[], [], []]
    for row, name in enumerate(columns.requests.tolist()):
        prompt = columns.prompt_tokens[ends[row] - columns.prompt_lens[row] : ends[row]].tolist()
        produced = int(columns.produced[row])
        whole = fleet.counting_answer(prompt[: len(prompt) - produced], BUDGET)
        rest = whole[produced:]
        reason = STOP if whole[-1] == STOP_ID else LENGTH
        if len(rest) > 1:
            steps[0].append(Row(name, rest[:1]))
        if len(rest) > 2:
            steps[1].append(Row(name, rest[1:-1]))
        steps[2].append(Row(name, rest[-1:], reason))
    return steps


def pack(step: Step, sequence: int, **columns: Any) -> bytes:
    """Pack rows as a frame; `columns` replaces some of its columns."""
    ends = [(row, end.reason) for row, end in enumerate(step) if end.reason is not None]
    frame = TokenColumns(
        requests=np.array([row.name for row in step], np.uint64),
        counts=np.array([len(row.tokens) for row in step], np.uint32),
        tokens=np.array([token for row in step for token in row.tokens], np.int32),
        finished_rows=np.array([row for row, _ in ends], np.uint32),
        finish_reasons=np.array([reason for _, reason in ends], np.uint8),
        produced_ns=1,
    )._replace(**columns)
    return pb.FromWorker(tokens=pack_tokens(frame, sequence)).SerializeToString()


@dataclass
class Outcome:
    """How a run ended."""

    refusal: str = ""
    """Why the fleet was refused; empty if it was not."""
    losses: list[str] = field(default_factory=list)
    """Why the lying worker was lost."""
    failures: list[str] = field(default_factory=list)
    """Why the run failed."""
    counts: Counts | None = None
    answers: dict[int, list[int]] = field(default_factory=dict)
    """Tokens reported to LoadGen, by sample."""
    records: RequestRecords | None = None
    """The finished requests with all their times; None: the run did not begin."""
    readings: list[EngineReading] = field(default_factory=list)
    """What both workers' engines were last doing, as far as it is believed."""
    num_questions: int = 0
    """How often the worker was asked about itself while it lied."""


def expected_answers() -> dict[int, list[int]]:
    """Compute the right answers by hand."""
    return {i: fleet.counting_answer(prompt, BUDGET) for i, prompt in enumerate(PROMPTS)}


async def run_beside_honest(lie: Lie, *, breaks_first: bool = False) -> Outcome:
    """Run all prompts on an honest worker and on one that lies."""
    honest, liar = Worker("honest", Lie()), Worker("liar", lie, breaks_first)
    async with asyncio.timeout(END_TIMEOUT_S), honest.serving() as first, liar.serving() as second:
        outcome = Outcome()
        patience = Patience(Limits(lie.patience_s, lie.patience_s), END_TIMEOUT_S, True)
        fleet_ = Fleet((first, second), Access(), patience)
        try:
            await fleet_.wait_ready(END_TIMEOUT_S)
            await _run(fleet_, outcome, liar, breaks_first)
        except (FleetError, WorkerLost) as error:
            outcome.refusal = str(error)
        finally:
            await fleet_.close()
        outcome.num_questions = liar.num_questions
        return outcome


async def _run(fleet_: Fleet, outcome: Outcome, liar: Worker, breaks_first: bool) -> None:
    reports = RecordedReports(reports_first_tokens=True)
    task = Task(dataset(*PROMPTS), cast(Reports, reports), BUDGET, 3, keep=lambda *_: None)
    loop = asyncio.get_running_loop()
    scheduler = Scheduler(task, fleet_.links, outcome.failures.append, loop)
    streams = await fleet_.open(opening_of("lies", SPEC), scheduler)
    scheduler.issue([1000 + i for i in range(len(PROMPTS))], list(range(len(PROMPTS))))
    beating = asyncio.ensure_future(_beat(streams, scheduler))
    try:
        while scheduler.table.num_done < len(PROMPTS) and not outcome.failures:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        # Two probes of the worker: the second starts after the first was handled.
        while breaks_first and liar.num_questions < 4:  # noqa: ASYNC110 - a worker tells nobody
            await asyncio.sleep(0.01)
        await streams.settle()
    finally:
        beating.cancel()
        await streams.halt()
    scheduler.keep_answers()
    run = types.SimpleNamespace(scheduler=scheduler, fleet=fleet_)
    outcome.counts = collect_counts(cast(ActiveRun, run))
    outcome.records = collect_requests(cast(ActiveRun, run))
    outcome.readings = [link.stream.reading for link in fleet_.links]
    address = fleet_.links[1].address
    outcome.losses = [loss.reason for loss in scheduler.failover.losses if loss.address == address]
    assert len(outcome.losses) == len(scheduler.failover.losses), "the honest worker was lost"
    outcome.answers = {id_ - 1000: tokens for id_, tokens in reports.answers}
    assert len(reports.answers) == len(outcome.answers)
    firsts = {id_ - 1000: token for id_, token in reports.firsts}
    assert firsts == {sample: tokens[0] for sample, tokens in outcome.answers.items() if tokens}


async def _beat(streams: Any, scheduler: Scheduler) -> None:
    while True:
        await asyncio.sleep(coordinator.transport.stream.BEAT_INTERVAL_S)
        streams.beat(scheduler.outstanding)


def rows_of(steps: Sequence[Step]) -> list[Row]:
    """List all rows of some steps."""
    return [row for step in steps for row in step]
