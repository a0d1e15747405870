"""A reader slower than the engine receives the backlog in frames of bounded size, each token once."""

import asyncio

import numpy as np
import pytest

from protos import worker_pb2 as pb
from protos.columns import TokenColumns, unpack_tokens
from tests import fleet
from tests.protos.by_hand import read_tokens
from tests.worker.raw_client import MAX_MODEL_LEN, Worker, walk
from tests.worker.test_outbox import columns, ends_of, frame, rows_of, run
from tests.worker.test_silence import pinging
from worker import outbox as outbox_module
from worker.engine_protocol import Step
from worker.engines.scripted.counting import CountingConfig, CountingEngine
from worker.outbox import Outbox, split

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
MIB = 1 << 20


def column_bytes(tokens: pb.Tokens) -> int:
    """Count the bytes of a frame's columns."""
    return sum(map(len, read_tokens(tokens).columns.values()))


def wide_step(rows: int, tokens_per_row: int) -> TokenColumns:
    """Make a step whose row r holds r, r, r, ...; the odd rows end."""
    return TokenColumns(
        requests=np.arange(rows, dtype=np.uint64),
        counts=np.full(rows, tokens_per_row, np.uint32),
        tokens=np.repeat(np.arange(rows, dtype=np.int32), tokens_per_row),
        finished_rows=np.arange(1, rows, 2, dtype=np.uint32),
        finish_reasons=np.full(rows // 2, LENGTH, np.uint8),
        produced_ns=5,
    )


def test_a_step_is_cut_between_rows() -> None:
    """A step of 60 MiB is cut into frames of at most 16 MiB, with every row, end and reason once."""
    step = wide_step(rows=600, tokens_per_row=26_214)
    pieces = split(step)
    # 600 rows of 17 + 4 * 26,214 = 104,873 bytes; 159 of them fit into 16,777,216.
    assert [len(piece.requests) for piece in pieces] == [159, 159, 159, 123]
    for name in ("requests", "counts", "tokens", "finish_reasons"):
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        assert np.array_equal(getattr(step, name), joined)
    ends = [name for piece in pieces for name in piece.requests[piece.finished_rows].tolist()]
    assert ends == list(range(1, 600, 2))
    assert {piece.produced_ns for piece in pieces} == {5}


def test_a_step_that_fits_is_left_alone() -> None:
    """The usual step is not copied, one without counts included."""
    step = columns([(5, [1]), (3, [2])], {3: STOP})
    (piece,) = split(step)
    assert piece is step


def test_a_step_of_single_tokens_is_cut_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without counts a row is one token: 21 bytes, so a bound of 50 takes two; one of 4 still takes one."""
    step = columns([(name, [10 * name]) for name in range(1, 6)], {2: STOP, 3: LENGTH})
    monkeypatch.setattr(outbox_module, "MAX_FRAME_BYTES", 50)
    pieces = split(step)
    assert [rows_of(piece) for piece in pieces] == [{1: [10], 2: [20]}, {3: [30], 4: [40]}, {5: [50]}]
    assert [ends_of(piece) for piece in pieces] == [{2: STOP}, {3: LENGTH}, {}]
    assert {piece.counts for piece in pieces} == {None}
    monkeypatch.setattr(outbox_module, "MAX_FRAME_BYTES", 4)
    assert [len(piece.requests) for piece in split(step)] == [1, 1, 1, 1, 1]


def test_a_step_too_wide_for_a_message_leaves_in_several_frames() -> None:
    """A step of 80 MiB, as after a suspended process, is sent in five frames or more."""

    async def walk_frames() -> None:
        outbox = Outbox(hold_ns=3_600_000_000_000)
        outbox.put(Step(wide_step(rows=1000, tokens_per_row=20_972), urgent=True))
        outbox.put(Step(columns([(7, [-1])]), urgent=False))
        tokens: dict[int, np.ndarray] = {}
        sequence = 0
        while len(tokens) < 1000 or len(tokens[7]) == 20_972:
            message = (await outbox.next()).tokens
            assert column_bytes(message) <= 16 * MIB
            taken = unpack_tokens(message, sequence)
            sequence += 1
            counts = np.ones(1, np.uint32) if taken.counts is None else taken.counts
            parts = np.split(taken.tokens, counts.cumsum()[:-1])
            for name, part in zip(taken.requests.tolist(), parts, strict=True):
                tokens[name] = np.concatenate([tokens.get(name, part[:0]), part])
        assert sequence == outbox.num_frames >= 5
        assert tokens.pop(7).tolist() == [7] * 20_972 + [-1]
        assert all((part == name).all() and len(part) == 20_972 for name, part in tokens.items())

    run(walk_frames())


def test_a_backlog_is_merged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token of a backlog is merged once, however long the backlog is."""
    monkeypatch.setattr(outbox_module, "MAX_FRAME_BYTES", 1000)
    merged: list[int] = []
    merge = outbox_module.merge

    def counted(steps: list[TokenColumns]) -> TokenColumns:
        merged.append(sum(len(step.tokens) for step in steps))
        return merge(steps)

    monkeypatch.setattr(outbox_module, "merge", counted)

    async def walk_frames() -> list[int]:
        outbox = Outbox(0)
        answer: list[int] = []
        for number in range(5000):
            outbox.put(Step(columns([(1, [number])]), urgent=number % 7 == 0))
            # A reader that takes a frame for every 200 steps, of which one holds 47: 1000 // 21.
            if number % 200 == 199:
                answer += rows_of(await frame(outbox))[1]
        while len(answer) < 5000:
            answer += rows_of(await frame(outbox))[1]
        return answer

    assert list(range(5000)) == run(walk_frames())
    assert sum(merged) == 5000
    assert set(merged) == {47, 5000 % 47}


def test_what_a_frame_leaves_behind_follows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a backlog is not held again, and has the time of its own oldest token."""
    monkeypatch.setattr(outbox_module, "MAX_FRAME_BYTES", 50)

    async def walk_frames() -> list[int]:
        outbox = Outbox(hold_ns=3_600_000_000_000)
        for number in range(5):
            outbox.put(Step(columns([(1, [number])], produced_ns=100 + number), urgent=number in (1, 4)))
        return [read_tokens((await outbox.next()).tokens).produced_ns for _ in range(3)]

    # Frames of two steps: the first holds an urgent one, the second none, the third is urgent itself.
    assert [101, 102, 104] == run(walk_frames())


def test_a_reader_that_pauses_gets_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that reads only after 600,000 tokens gets all of them, in frames within the bound."""
    monkeypatch.setattr(outbox_module, "MAX_FRAME_BYTES", 256 * 1024)
    num, answer_len = 300, 2000

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        prompts = {name: [answer_len, 600 * name] for name in range(1, num + 1)}
        await stream.submit(prompts, budget=answer_len)
        async with pinging(stream):
            while True:
                load = await worker.stub.GetLoad(pb.GetLoadRequest())
                if load.produced_tokens == num * answer_len:
                    break
                await asyncio.sleep(0.05)
        sizes = []
        while len(stream.reasons) < num:
            message = await stream.call.read()
            if message.WhichOneof("message") == "tokens":
                sizes.append(column_bytes(message.tokens))
                stream.add(message.tokens)
        expected = {name: fleet.counting_answer(prompt, answer_len) for name, prompt in prompts.items()}
        assert expected == stream.answers
        assert max(sizes) <= 256 * 1024
        # 300 rows of 21 bytes a step: 41 steps to a frame of the backlog.
        assert len(sizes) < 2000
        assert (await stream.ping(2)).produced_tokens == num * answer_len
        await stream.end()

    engine = CountingEngine(CountingConfig(step_ms=0, max_num_seqs=num, max_model_len=MAX_MODEL_LEN))
    walk(steps, engine)
