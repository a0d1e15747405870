"""The coordinator's end of a stream, against a worker that misbehaves in every way we could think of."""

import asyncio

import grpc
import pytest

import coordinator.transport.stream
from coordinator.transport.stream import Limits, Stream, WorkerLost
from protos import worker_pb2 as pb
from protos.columns import FrameError, TokenColumns
from tests.coordinator.transport.scripted_worker import (
    Scene,
    Script,
    act,
    carry,
    drop,
    good_frame,
    loss_of,
    open_stream,
    prompts,
    refusal_of,
)
from tests.protos.by_hand import read_tokens, tokens_of


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ping every 20 ms: limits of tenths of seconds then mean something."""
    monkeypatch.setattr(coordinator.transport.stream, "BEAT_INTERVAL_S", 0.02)


@pytest.fixture
def short_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for an answer 0.3 s."""
    monkeypatch.setattr(coordinator.transport.stream, "CALL_TIMEOUT_S", 0.3)


def test_an_answer_for_another_run_is_no_answer() -> None:
    """A worker that opens a run of another name is lost with that name."""

    async def script(scene: Scene) -> None:
        await scene.hear("open")
        await scene.say(opened=pb.Opened(run_id="another"))
        await scene.hear("never")

    loss = refusal_of(script)
    assert "answers for run 'another'" == loss.reason
    assert "worker the-worker:1: answers for run 'another'" == str(loss)


@pytest.mark.usefixtures("short_calls")
def test_a_worker_that_does_not_answer_open_is_lost() -> None:
    """`open` waits a bounded time for its answer."""

    async def script(scene: Scene) -> None:
        await scene.hear("never")

    assert "no answer within 0.3 s" == refusal_of(script).reason


@pytest.mark.usefixtures("short_calls")
def test_an_address_without_a_worker_is_lost() -> None:
    """Where nobody listens, `open` ends within its bound."""

    async def steps() -> None:
        async with asyncio.timeout(60), grpc.aio.insecure_channel("127.0.0.1:1") as channel:
            stream = Stream("the-worker:1", channel, metadata=None)
            with pytest.raises(WorkerLost, match=r"^worker the-worker:1: no answer within 0\.3 s$"):
                await open_stream(stream)
            stream.cancel()

    asyncio.run(steps())


def test_a_refusal_is_told_in_the_workers_own_words() -> None:
    """A status at `open` keeps its code and its details."""

    async def script(scene: Scene) -> None:
        await scene.hear("open")
        await scene.call.abort(grpc.StatusCode.FAILED_PRECONDITION, "run 'x' holds this worker")

    loss = refusal_of(script)
    assert "FAILED_PRECONDITION: run 'x' holds this worker" == loss.reason


async def out_of_sequence(scene: Scene) -> None:
    """Leave out frame 0."""
    await scene.say(tokens=good_frame([5], sequence=1))


async def doubled(scene: Scene) -> None:
    """Send a frame twice."""
    await scene.say(tokens=good_frame([5], sequence=0))
    await scene.say(tokens=good_frame([5], sequence=0))


async def altered(scene: Scene) -> None:
    """Change a token on the way."""
    frame = good_frame([5], sequence=0)
    # The token stands at the end.
    frame.packed = frame.packed[:-4] + (6).to_bytes(4, "little")
    await scene.say(tokens=frame)


async def renumbered(scene: Scene) -> None:
    """Send a frame again under the number that belongs now."""
    first = good_frame([5], sequence=0)
    await scene.say(tokens=first)
    first.packed = good_frame([5], sequence=1).packed
    await scene.say(tokens=first)


async def cut(scene: Scene) -> None:
    """Cut a frame's column in the middle of a value."""
    frame = good_frame([5, 6], sequence=0)
    columns = read_tokens(frame).columns
    await scene.say(tokens=tokens_of(1, 0, **columns | {"tokens": columns["tokens"][:-1]}))


async def pong_without_ping(scene: Scene) -> None:
    """Answer what nobody asked."""
    await scene.say(pong=pb.Pong(nonce=77, worker_ns=1))


async def pong_twice(scene: Scene) -> None:
    """Answer a ping twice."""
    ping = await scene.hear("ping")
    for _ in range(2):
        await scene.say(pong=pb.Pong(nonce=ping.nonce, worker_ns=5))


async def clock_back(scene: Scene) -> None:
    """Let the worker's clock go back."""
    for worker_ns in (200, 100):
        ping = await scene.hear("ping")
        await scene.say(pong=pb.Pong(nonce=ping.nonce, worker_ns=worker_ns))


async def open_again(scene: Scene) -> None:
    """Open a second time."""
    await scene.say(opened=pb.Opened(run_id="this"))


async def nothing(scene: Scene) -> None:
    """Send a message that holds nothing."""
    await scene.say()


async def unknown(scene: Scene) -> None:
    """Send a message of a kind that this protocol does not have: field 3, empty."""
    await scene.call.write(pb.FromWorker.FromString(b"\x1a\x00"))


@pytest.mark.usefixtures("quick_pings")
@pytest.mark.parametrize(
    "deed, reason",
    [
        (out_of_sequence, "bad frame: tokens: frame 1, expected 0"),
        (doubled, "bad frame: tokens: frame 0, expected 1"),
        (altered, "bad frame: tokens: the digest is not that of the columns"),
        (renumbered, "bad frame: tokens: the digest is not that of the columns"),
        (cut, "bad frame: tokens: 7 bytes is not a multiple of 4"),
        (pong_without_ping, "bad frame: pong 77 without a ping"),
        (pong_twice, "bad frame: pong 0 without a ping"),
        (clock_back, "bad frame: clock went back from 200 to 100 ns"),
        (open_again, "bad frame: unexpected message: opened"),
        (nothing, "bad frame: unexpected message: None"),
        (unknown, "bad frame: unexpected message: None"),
    ],
)
def test_a_worker_that_breaks_the_protocol_is_lost(deed: Script, reason: str) -> None:
    """Whatever does not belong ends the stream at once, and says what it was."""

    async def script(scene: Scene) -> None:
        await scene.open()
        await deed(scene)
        await scene.hear("never")

    loss = loss_of(script)
    assert reason == loss.reason


def test_a_worker_that_goes_tells_why() -> None:
    """A status in mid-run keeps its code and its details."""

    async def script(scene: Scene) -> None:
        await scene.open()
        await scene.bring(5)
        # All that it is sent for now, so that no write is under way.
        await scene.hear("submit")
        await scene.hear("ping")
        await scene.call.abort(grpc.StatusCode.UNAVAILABLE, "engine died: CUDA error")

    loss = loss_of(script, sent=prompts(3))
    assert "UNAVAILABLE: engine died: CUDA error" == loss.reason


def test_a_stream_that_ends_without_an_error_is_lost_too() -> None:
    """OK in the middle of a run is a loss like any other."""

    async def script(scene: Scene) -> None:
        await scene.open()
        await scene.hear("submit")
        await scene.hear("ping")

    loss = loss_of(script, sent=prompts(3))
    assert "stream ended" == loss.reason


@pytest.mark.usefixtures("quick_pings")
def test_a_silent_worker_is_lost() -> None:
    """A worker that answers no ping is lost, whether it has requests or not."""

    async def script(scene: Scene) -> None:
        await scene.open()
        await scene.hear("never")

    assert "silent for 0.2 s" == loss_of(script, Limits(silence_s=0.2, stall_s=30)).reason


@pytest.mark.usefixtures("quick_pings")
def test_a_stalled_worker_is_lost() -> None:
    """A worker that answers pings but brings no token for its requests is lost, and they are counted."""

    async def script(scene: Scene) -> None:
        await scene.open()
        await scene.pong()

    loss = loss_of(script, Limits(silence_s=30, stall_s=0.2), prompts(3, 4))
    assert "2 requests, no token for 0.2 s" == loss.reason


@pytest.mark.usefixtures("quick_pings")
def test_a_worker_without_requests_is_not_stalled() -> None:
    """A worker that has nothing to do may bring nothing, for many times the limit."""
    answered = asyncio.Event()

    async def steps(stream: Stream) -> None:
        await open_stream(stream)
        outstanding: list[int] = []
        carried = asyncio.ensure_future(carry(stream, drop, Limits(30, 0.1), outstanding.__len__))
        await answered.wait()
        assert not carried.done()
        stream.send(prompts(3))
        outstanding.append(3)
        with pytest.raises(WorkerLost, match="1 requests, no token for"):
            await carried

    async def script(scene: Scene) -> None:
        await scene.open()
        for worker_ns in range(30):  # 30 pings, one each 20 ms
            ping = await scene.hear("ping")
            await scene.say(pong=pb.Pong(nonce=ping.nonce, worker_ns=worker_ns))
        answered.set()
        await scene.pong(worker_ns=30)

    act(script, steps)


def test_a_frame_that_does_not_fit_ends_the_stream() -> None:
    """What the receiver refuses is the worker's loss, in the receiver's words; the frame does not count."""

    def refuse(columns: TokenColumns) -> None:
        raise FrameError(f"worker 0: no token {columns.tokens[0]}")

    async def steps(stream: Stream) -> None:
        await open_stream(stream)
        with pytest.raises(WorkerLost, match=r"^worker the-worker:1: bad frame: worker 0: no token 5$"):
            await stream.carry(refuse)
        assert (0, 0) == (stream.counts.num_frames, stream.counts.num_tokens)

    async def script(scene: Scene) -> None:
        await scene.open()
        await scene.bring(5)
        await scene.hear("never")

    act(script, steps)
