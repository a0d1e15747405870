"""The outbox: each token is sent once, in order, and within its hold time."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest

from protos import worker_pb2 as pb
from protos.columns import TokenColumns, unpack_tokens
from tests.protos.by_hand import read_tokens
from worker.engine_protocol import Step
from worker.outbox import Outbox

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
HOUR_NS = 3_600_000_000_000
_T = TypeVar("_T")


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end, within a bound."""
    return asyncio.run(asyncio.wait_for(work, 120))


def columns(
    rows: list[tuple[int, list[int]]], ends: dict[int, int] | None = None, produced_ns: int = 0
) -> TokenColumns:
    """Make columns of (name, tokens) rows; `ends` maps a name to its reason."""
    ends = ends or {}
    counts = np.array([len(tokens) for _, tokens in rows], np.uint32)
    last = [row for row, (name, _) in enumerate(rows) if name in ends]
    return TokenColumns(
        requests=np.array([name for name, _ in rows], np.uint64),
        counts=None if (counts == 1).all() else counts,
        tokens=np.array([token for _, tokens in rows for token in tokens], np.int32),
        finished_rows=np.array(last, np.uint32),
        finish_reasons=np.array([ends[rows[row][0]] for row in last], np.uint8),
        produced_ns=produced_ns,
    )


def rows_of(merged: TokenColumns) -> dict[int, list[int]]:
    """Split columns into tokens by request; two rows of one request fail."""
    names = merged.requests.tolist()
    assert len(names) == len(set(names))
    counts = [1] * len(names) if merged.counts is None else merged.counts.tolist()
    tokens = iter(merged.tokens.tolist())
    rows = {name: [next(tokens) for _ in range(count)] for name, count in zip(names, counts, strict=True)}
    assert list(tokens) == []
    return rows


def ends_of(merged: TokenColumns) -> dict[int, int]:
    """Map finished requests to reasons."""
    names = merged.requests[merged.finished_rows].tolist()
    return dict(zip(names, merged.finish_reasons.tolist(), strict=True))


def held(*steps: TokenColumns) -> Outbox:
    """Fill an outbox, which holds for an hour, with steps that are not urgent."""
    outbox = Outbox(HOUR_NS)
    for step in steps:
        outbox.put(Step(step, urgent=False))
    return outbox


async def frame(outbox: Outbox) -> TokenColumns:
    """Take the next message, which must be a frame."""
    message = await outbox.next()
    assert message.WhichOneof("message") == "tokens"
    return unpack_tokens(message.tokens, outbox.num_frames - 1)


async def assert_silent(outbox: Outbox) -> None:
    """Check that nothing comes, however often the loop turns and for 50 ms."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await outbox.next()


def test_a_first_token_or_an_end_leaves_at_once() -> None:
    """An urgent step is sent at once although the hold time is an hour, together with the steps before it."""

    async def walk() -> None:
        outbox = held(columns([(1, [10])]), columns([(1, [11])]))
        outbox.put(Step(columns([(2, [20])]), urgent=True))
        taken = await frame(outbox)
        assert rows_of(taken) == {1: [10, 11], 2: [20]}
        outbox.put(Step(columns([(1, [12])], {1: STOP}), urgent=True))
        taken = await frame(outbox)
        assert (rows_of(taken), ends_of(taken)) == ({1: [12]}, {1: STOP})
        assert outbox.num_frames == 2

    run(walk())


def test_an_urgent_step_wakes_a_waiting_reader() -> None:
    """A reader that already waits for held tokens gets them as soon as an urgent step comes."""

    async def walk() -> None:
        outbox = held(columns([(1, [10])]))
        reader = asyncio.ensure_future(frame(outbox))
        await asyncio.sleep(0.01)
        assert not reader.done()
        outbox.put(Step(columns([(2, [20])]), urgent=True))
        assert rows_of(await reader) == {1: [10], 2: [20]}

    run(walk())


def test_other_tokens_wait_for_the_hold_time() -> None:
    """A step that is not urgent is held, also after an urgent frame; a cancelled `next` loses nothing."""

    async def walk() -> None:
        outbox = held()
        await assert_silent(outbox)
        outbox.put(Step(columns([(1, [10])]), urgent=True))
        await frame(outbox)
        outbox.put(Step(columns([(1, [11])]), urgent=False))
        await assert_silent(outbox)
        outbox.put(Step(columns([(1, [12])]), urgent=False))
        await assert_silent(outbox)
        assert outbox.num_frames == 1
        outbox.put(Step(columns([(1, [13])]), urgent=True))
        assert rows_of(await frame(outbox)) == {1: [11, 12, 13]}

    run(walk())


@pytest.mark.parametrize("hold_ns", [0, 1_000_000])
def test_held_tokens_leave_after_the_hold_time(hold_ns: int) -> None:
    """Without an urgent step a frame is sent after the hold time, to an early or a late reader."""

    async def walk() -> None:
        outbox = Outbox(hold_ns)
        reader = asyncio.ensure_future(frame(outbox))
        await asyncio.sleep(0)
        outbox.put(Step(columns([(1, [10])]), urgent=False))
        assert rows_of(await reader) == {1: [10]}
        outbox.put(Step(columns([(1, [11])]), urgent=False))
        assert rows_of(await frame(outbox)) == {1: [11]}

    run(walk())


def test_a_slow_reader_gets_fewer_larger_frames_with_the_same_tokens() -> None:
    """400 steps read one by one are 400 frames, read after each 100 they are 4, with the same tokens."""

    async def walk(steps_between_reads: int) -> tuple[int, dict[int, list[int]], dict[int, int]]:
        outbox = Outbox(0)
        answers: dict[int, list[int]] = {1: [], 2: []}
        ends: dict[int, int] = {}
        for number in range(400):
            last: dict[int, int] = {2: LENGTH} if number == 399 else {}
            outbox.put(Step(columns([(1, [number]), (2, [-number, 7])], last), urgent=number % 3 == 0))
            if number % steps_between_reads == steps_between_reads - 1:
                taken = await frame(outbox)
                ends |= ends_of(taken)
                for name, tokens in rows_of(taken).items():
                    answers[name] += tokens
        return outbox.num_frames, answers, ends

    expected = {1: list(range(400)), 2: [token for number in range(400) for token in (-number, 7)]}
    assert run(walk(1)) == (400, expected, {2: LENGTH})
    assert run(walk(100)) == (4, expected, {2: LENGTH})


def test_control_messages_overtake_tokens_in_their_own_order() -> None:
    """Pongs are sent before pending tokens, in their own order, and are not counted as frames."""

    async def walk() -> None:
        outbox = Outbox(0)
        outbox.put(Step(columns([(1, [10])]), urgent=True))
        for nonce in (5, 6):
            outbox.put_control(pb.FromWorker(pong=pb.Pong(nonce=nonce)))
        assert [(await outbox.next()).pong.nonce, (await outbox.next()).pong.nonce] == [5, 6]
        assert outbox.num_frames == 0
        assert rows_of(await frame(outbox)) == {1: [10]}
        reader = asyncio.ensure_future(outbox.next())
        await asyncio.sleep(0)
        outbox.put_control(pb.FromWorker(pong=pb.Pong(nonce=7)))
        assert (await reader).pong.nonce == 7

    run(walk())


@pytest.mark.parametrize(
    "steps, expected",
    [
        ([(100, False), (200, True), (300, True)], 200),  # the oldest first token or end
        ([(100, True), (200, False)], 100),
        ([(100, False), (200, False)], 100),  # of a frame without either, its oldest tokens
    ],
)
def test_a_frame_says_when_its_oldest_first_token_was_produced(
    steps: list[tuple[int, bool]], expected: int
) -> None:
    """produced_ns is the oldest urgent step's, else the oldest step's."""

    async def walk() -> None:
        outbox = Outbox(0)
        for produced_ns, urgent in steps:
            outbox.put(Step(columns([(1, [1])], produced_ns=produced_ns), urgent))
        assert expected == read_tokens((await outbox.next()).tokens).produced_ns
        outbox.put(Step(columns([(1, [1])], produced_ns=900), urgent=False))
        assert read_tokens((await outbox.next()).tokens).produced_ns == 900

    run(walk())
