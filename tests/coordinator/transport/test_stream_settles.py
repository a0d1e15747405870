"""What the coordinator asks of a worker: its final counts, and prompts in messages of bounded size."""

import asyncio

import pytest

import coordinator.transport.stream
import protos.prompt_parts
from coordinator.transport.stream import Stream
from protos import worker_pb2 as pb
from tests.coordinator.transport.scripted_worker import Scene, act, carrying, prompts
from tests.protos.by_hand import read_submit


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ping every 20 ms: limits of tenths of seconds then mean something."""
    monkeypatch.setattr(coordinator.transport.stream, "BEAT_INTERVAL_S", 0.02)


@pytest.mark.usefixtures("quick_pings")
def test_settle_waits_until_the_counts_match() -> None:
    """A pong of more tokens than came is asked again, until the last frame has come."""
    delivered: list[list[int]] = []

    async def script(scene: Scene) -> None:
        await scene.open()
        await scene.bring(5)
        for last in (False, False, True):
            ping = await scene.hear("ping")
            if last:
                await scene.bring(6, 7)
            pong = pb.Pong(nonce=ping.nonce, worker_ns=1, produced_tokens=3)
            await scene.say(pong=pong)
        await scene.pong(produced_tokens=3)

    async def steps(stream: Stream) -> None:
        async with carrying(stream, lambda columns: delivered.append(columns.tokens.tolist())):
            await stream.settle(30)
            counts = stream.counts
            assert (True, 3, 3) == (counts.settled, counts.produced_tokens, counts.num_tokens)
            assert 2 == counts.num_frames

    act(script, steps)
    assert [[5], [6, 7]] == delivered


@pytest.mark.usefixtures("quick_pings")
def test_counts_that_never_match_stay_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that claims more tokens than it brought is settled with the difference, in bounded time."""

    async def script(scene: Scene) -> None:
        await scene.open()
        await scene.bring(5)
        await scene.pong(produced_tokens=9)

    async def steps(stream: Stream) -> None:
        async with carrying(stream):
            # Not before: a busy machine needs longer to open the stream.
            monkeypatch.setattr(coordinator.transport.stream, "CALL_TIMEOUT_S", 0.3)
            await stream.settle(30)
            counts = stream.counts
            assert (True, 9, 1) == (counts.settled, counts.produced_tokens, counts.num_tokens)

    act(script, steps)


@pytest.mark.usefixtures("quick_pings")
def test_a_worker_that_answers_no_ping_does_not_settle() -> None:
    """Without a pong the stream is not settled, and the wait ends."""

    async def script(scene: Scene) -> None:
        await scene.open()
        await scene.hear("never")

    async def steps(stream: Stream) -> None:
        async with carrying(stream):
            await stream.settle(0.3)
            assert not stream.counts.settled

    act(script, steps)


def test_prompts_are_cut_between_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """No message holds more than its bound of prompt tokens, but a longer prompt goes whole and alone."""
    for module in (coordinator.transport.stream, protos.prompt_parts):
        monkeypatch.setattr(module, "MAX_SUBMIT_TOKENS", 5)
    scenes: list[Scene] = []
    heard_all = asyncio.Event()

    async def script(scene: Scene) -> None:
        scenes.append(scene)
        await scene.open()
        await scene.hear("cancel")
        heard_all.set()
        await scene.hear("never")

    async def steps(stream: Stream) -> None:
        async with carrying(stream):
            stream.send(prompts(2, 3, 1, 9, 5))
            stream.cancel_requests(prompts(2, 3).requests)
            await heard_all.wait()

    act(script, steps)
    heard = [m for m in scenes[0].heard if m.WhichOneof("message") in ("submit", "cancel")]
    # u4 lengths; the prompts' tokens are 0..19 end to end.
    lens = [[2, 3], [1], [9], [5]]
    tokens = [range(5), range(5, 6), range(6, 15), range(15, 20)]
    for message, some, ids in zip(heard[:-1], lens, tokens, strict=True):
        columns = read_submit(message.submit)
        assert b"".join(n.to_bytes(4, "little") for n in some) == columns["prompt_lens"]
        assert b"".join(n.to_bytes(4, "little") for n in ids) == columns["prompt_tokens"]
    assert b"".join(n.to_bytes(8, "little") for n in (1, 2)) == heard[-1].cancel.requests


@pytest.mark.usefixtures("quick_pings")
@pytest.mark.parametrize(
    ("rows", "tokens", "known"),
    [(1, 2, (1, 2)), (2, 2, (2, 2)), (3, 2, (0, 0)), (1, 4, (0, 0)), (2**64 - 1, 2**64 - 1, (0, 0))],
)
def test_rows_that_contradict_the_tokens_are_not_known(
    rows: int, tokens: int, known: tuple[int, int]
) -> None:
    """Of 3 tokens, rows with 2 of them count; more rows than tokens, or more tokens than 3, do not."""

    async def script(scene: Scene) -> None:
        await scene.open()
        await scene.bring(5, 6, 7)
        await scene.pong(produced_tokens=3, decode_rows=rows, decode_tokens=tokens)

    async def steps(stream: Stream) -> None:
        async with carrying(stream):
            await stream.settle(0.3)
            assert known == (stream.counts.decode_rows, stream.counts.decode_tokens)
            assert stream.counts.settled

    act(script, steps)
