"""What happens in an open run, over a real socket: bad messages, cancel, ping, and every way to end."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from protos import worker_pb2 as pb
from protos.columns import PROTOCOL_VERSION
from tests.protos.by_hand import seal, submit_of
from tests.worker.raw_client import (
    MAX_MODEL_LEN,
    SPEC,
    STOP_TOKEN_ID,
    Stream,
    Worker,
    assert_empty,
    connected,
    open_when_free,
    refusal_of,
    walk,
)
from worker import session as session_module
from worker.engine_protocol import EngineDead, Step
from worker.engines.scripted.counting import CountingConfig, CountingEngine

ROOT = Path(__file__).resolve().parents[2]
# The longest answer the raw client may ask for: 2 s of steps, longer than any test here reads.
LONG = [10_000, 7]


@pytest.mark.parametrize(
    "prompts, budget, named",
    [
        ({1: [3, 5], 2: [201_088]}, 1, "token id 201088 outside the vocabulary of 201088"),
        ({1: [2**31 - 1, 5]}, 1, "token id 2147483647 outside the vocabulary of 201088"),
        ({1: [3, -1], 2: [3, 5]}, 1, "token id -1 outside the vocabulary of 201088"),
        ({1: [-(2**31)]}, 1, "token id -2147483648 outside the vocabulary of 201088"),
        ({1: [3, 5]}, 10_001, "budget of 10001 tokens beyond the run's 10000"),
        ({1: [3, 5]}, 0xFFFFFFFF, "budget of 4294967295 tokens beyond the run's 10000"),
        (
            {1: [3, 5], 2: [3] * 10_001},
            10_000,
            "prompt and budget of 20001 tokens beyond max_model_len 20000",
        ),
        ({1: [3] * 20_000}, 1, "prompt and budget of 20001 tokens beyond max_model_len 20000"),
        ({1: []}, 1, "submit: an empty prompt or a budget of 0 tokens"),
        ({1: [3]}, 0, "submit: an empty prompt or a budget of 0 tokens"),
    ],
)
def test_a_prompt_out_of_bounds_ends_the_run(prompts: dict[int, list[int]], budget: int, named: str) -> None:
    """INVALID_ARGUMENT names value and bound; good requests end with the run, and the worker is free."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        await stream.submit({99: LONG}, budget=10_000)
        await stream.submit(prompts, budget)
        assert await stream.refusal() == ("INVALID_ARGUMENT", named)
        await assert_empty(await open_when_free(worker, "next"))

    walk(steps)


def test_prompts_at_the_bounds_are_served() -> None:
    """The vocabulary's largest id, the run's whole budget, and a prompt that leaves 1 token are served."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        await stream.submit({1: [1, 201_087], 2: [2] + [0] * 9_999}, budget=10_000)
        await stream.submit({3: [1] * (MAX_MODEL_LEN - 1)}, budget=1)
        await stream.submit({})
        await stream.take_until_ended(1, 2, 3)
        assert stream.answers == {1: [STOP_TOKEN_ID], 2: [1, STOP_TOKEN_ID], 3: [STOP_TOKEN_ID]}

    walk(steps)


U8, U4 = bytes(8), (1).to_bytes(4, "little")
BAD_MESSAGES = {
    "requests: 7 bytes is not a multiple of 8": pb.ToWorker(submit=submit_of(requests=bytes(7))),
    "prompt_lens: 0 entries, expected 1": pb.ToWorker(submit=submit_of(requests=U8)),
    "prompt_tokens: 0 entries, expected 4294967295": pb.ToWorker(
        submit=submit_of(requests=U8, prompt_lens=b"\xff" * 4, max_new_tokens=U4)
    ),
    "submit: more tokens produced than the prompt holds": pb.ToWorker(
        submit=submit_of(requests=U8, prompt_lens=U4, prompt_tokens=U4, max_new_tokens=U4, produced=U4)
    ),
    "submit: the digest is not that of the columns": pb.ToWorker(
        submit=pb.Submit(packed=submit_of(requests=U8).packed)
    ),
    "submit: 23 bytes, shorter than the header of 24": pb.ToWorker(submit=seal(pb.Submit(packed=bytes(23)))),
    "submit: 25 bytes, expected 24": pb.ToWorker(submit=seal(pb.Submit(packed=bytes(25)))),
    "requests: 9 bytes is not a multiple of 8": pb.ToWorker(cancel=pb.Cancel(requests=bytes(9))),
    "unexpected message: open": pb.ToWorker(open=pb.Open(protocol_version=PROTOCOL_VERSION)),
    "unexpected message: None": pb.ToWorker(),
}


@pytest.mark.parametrize("named", BAD_MESSAGES)
def test_a_garbage_message_ends_the_run(named: str) -> None:
    """Contradicting columns, a second open and an empty message are INVALID_ARGUMENT, and are named."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        await stream.submit({99: LONG}, budget=10_000)
        await stream.call.write(BAD_MESSAGES[named])
        assert await stream.refusal() == ("INVALID_ARGUMENT", named)
        await assert_empty(await open_when_free(worker, "next"))

    walk(steps)


def test_a_run_that_ends_at_once_is_told_its_status() -> None:
    """A bad message right after `open`, while `opened` is being written, still gets its status."""

    async def steps(worker: Worker) -> None:
        for number in range(50):
            stream = await open_when_free(worker, "before")
            await stream.end()
            stream = worker.stream()
            spec = pb.RunSpec(**SPEC)  # type: ignore[arg-type]
            opening = pb.Open(protocol_version=PROTOCOL_VERSION, run_id=f"{number}", spec=spec)
            await stream.send(open=opening)
            await stream.send(cancel=pb.Cancel(requests=b"1"))
            named = "requests: 1 bytes is not a multiple of 8"
            assert await stream.refusal() == ("INVALID_ARGUMENT", named)

    walk(steps)


def test_cancel_stops_the_tokens_of_that_request_only() -> None:
    """After a cancel that request gets no new tokens; other and later requests get their whole answers."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        await stream.submit({1: LONG, 2: [300, 20], 3: LONG}, budget=10_000)
        await stream.take()
        await stream.send(cancel=pb.Cancel(requests=b"".join(n.to_bytes(8, "little") for n in (1, 77))))
        # Tokens on their way at the cancel come at the latest with the first frame of a request after it.
        await stream.submit({4: [2, 40]})
        await stream.take_until_ended(4)
        await stream.submit({5: [50, 60]})
        later: set[int] = set()
        while 5 not in stream.reasons:
            later |= await stream.take()
        await stream.take_until_ended(2)
        assert {3, 5} <= later <= {2, 3, 5}
        assert len(stream.answers[1]) < 10_000
        assert stream.answers[2] == [*range(21, 320), STOP_TOKEN_ID]
        assert stream.answers[4] == [41, STOP_TOKEN_ID]
        assert stream.answers[5] == [*range(61, 110), STOP_TOKEN_ID]
        assert set(stream.reasons) == {2, 4, 5}
        assert (await worker.stub.GetLoad(pb.GetLoadRequest())).running == 1

    walk(steps)


def test_a_pong_counts_what_the_stream_brought() -> None:
    """When all answers are in, the engine's count of tokens equals those received, to the token."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open("counted")
        prompts = {name: [name % 7, 50] for name in range(100, 140)}
        await stream.submit(prompts)
        await stream.take_until_ended(*prompts)
        expected = sum(name % 7 for name in prompts)
        assert expected == sum(map(len, stream.answers.values()))
        pong = await stream.ping(2**64 - 1)
        assert expected == pong.produced_tokens
        # 40 requests over 8 slots are at least 5 steps; a frame has at least one step.
        assert max(5, stream.num_frames) <= pong.steps
        # One token a row; the first token of a request does not count.
        later = sum(name % 7 - 1 for name in prompts if name % 7)
        assert (later, later) == (pong.decode_rows, pong.decode_tokens)
        load = await worker.stub.GetLoad(pb.GetLoadRequest())
        assert (load.run_id, load.produced_tokens, load.frames) == ("counted", expected, stream.num_frames)
        assert (load.running, load.waiting) == (0, 0)

    walk(steps)


@pytest.mark.parametrize(("interval_s", "numbers"), [(0.0, {0, 1, 2, 3}), (1000.0, {0})])
def test_a_frame_reports_the_load_once_per_interval(
    monkeypatch: pytest.MonkeyPatch, interval_s: float, numbers: set[int]
) -> None:
    """An answer of four frames: all report one running request, or only the first where a second is long."""
    monkeypatch.setattr(session_module, "LOAD_INTERVAL_S", interval_s)

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        await stream.submit({5: LONG}, budget=10_000)
        while stream.num_frames < 4:
            await stream.take()
        assert numbers == set(stream.loads)
        assert {(1, 0)} == {(load.running, load.waiting) for load in stream.loads.values()}

    walk(steps)


def test_get_load_and_pongs_count_running_and_waiting_apart() -> None:
    """Ten long requests over eight slots: eight run and two wait; a machine without GPUs tells of none."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        await stream.submit(dict.fromkeys(range(10), LONG), budget=10_000)
        await stream.take()
        load = await worker.stub.GetLoad(pb.GetLoadRequest())
        assert (load.running, load.waiting) == (8, 2)
        told = (await stream.ping(3)).load
        assert (8, 2, [], False) == (told.running, told.waiting, list(told.gpus), told.HasField("kv_use"))

    walk(steps)


@pytest.mark.parametrize("cancels", [True, False])
def test_a_coordinator_that_leaves_frees_the_worker(cancels: bool) -> None:
    """After a coordinator resets or closes its stream the worker is free and its engine empty."""

    async def steps(worker: Worker) -> None:
        for number in range(3):
            stream = await open_when_free(worker, f"run {number}")
            assert (await stream.ping(1)).produced_tokens == 0
            await stream.submit(dict.fromkeys(range(20), LONG), budget=10_000)
            await stream.take()
            if cancels:
                stream.call.cancel()
            else:
                await stream.call.done_writing()
        await assert_empty(await open_when_free(worker, "last"))

    walk(steps)


# Opens a run on argv[1], submits long requests, says so, and goes on reading until it is killed.
CLIENT = """
import asyncio, sys
from tests.worker.raw_client import Stream, connected
async def main():
    async with connected(sys.argv[1]) as channel:
        stream = Stream(channel)
        await stream.open("doomed")
        await stream.submit(dict.fromkeys(range(20), [10_000, 7]), budget=10_000)
        await stream.take()
        print("running", flush=True)
        await asyncio.sleep(30)
asyncio.run(main())
"""


def test_a_coordinator_that_is_killed_frees_the_worker() -> None:
    """SIGKILL of the coordinator's process ends its run; the worker is free and its engine empty."""

    async def steps(worker: Worker) -> None:
        doomed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, worker.address, cwd=ROOT, stdout=subprocess.PIPE
        )
        assert doomed.stdout is not None
        assert await doomed.stdout.readline() == b"running\n"
        expected = ("FAILED_PRECONDITION", "run doomed holds this worker")
        assert await refusal_of(worker.channel) == expected
        doomed.kill()
        await doomed.communicate()
        await assert_empty(await open_when_free(worker, "next"))

    walk(steps)


def test_closing_the_channel_frees_the_worker() -> None:
    """A coordinator that closes its channel during a run leaves a free worker."""

    async def steps(worker: Worker) -> None:
        async with connected(worker.address) as channel:
            stream = Stream(channel)
            await stream.open()
            await stream.submit({1: LONG}, budget=10_000)
            await stream.take()
        await assert_empty(await open_when_free(worker, "next"))

    walk(steps)


class SlowlyEmptiedEngine(CountingEngine):
    """Takes half a second to drop its requests, as vLLM may; notes what it has done."""

    def __init__(self) -> None:
        super().__init__(CountingConfig(step_ms=0.2, max_model_len=MAX_MODEL_LEN))
        self.emptying = asyncio.Event()
        self.deeds: list[str] = []

    async def reset(self) -> None:
        """Drop all requests."""
        self.emptying.set()
        await asyncio.sleep(0.5)
        await super().reset()
        self.deeds.append("emptied")

    async def close(self) -> None:
        """Note it."""
        self.deeds.append("closed")


def test_a_run_waits_for_the_one_before_it_to_leave_the_engine() -> None:
    """The coordinator is gone, its requests are being dropped: the next run is opened, not refused."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open("gone")
        await stream.submit(dict.fromkeys(range(20), LONG), budget=10_000)
        await stream.take()
        stream.call.cancel()
        assert isinstance(worker.engine, SlowlyEmptiedEngine)
        await worker.engine.emptying.wait()
        following = worker.stream()
        await following.open("next")
        await assert_empty(following)

    walk(steps, SlowlyEmptiedEngine())


class DyingEngine(CountingEngine):
    """Dies in its third step."""

    def __init__(self, words: str = "out of memory") -> None:
        super().__init__(CountingConfig(step_ms=0, max_model_len=MAX_MODEL_LEN))
        self.words = words
        self.steps_left = 2

    async def step(self) -> Step:
        """Step, or die."""
        if not self.steps_left:
            raise EngineDead(self.words)
        self.steps_left -= 1
        return await super().step()


@pytest.mark.parametrize("words", ["out of memory", "\u00fc" * 20_000], ids=["short", "long"])
def test_an_engine_that_dies_ends_the_run_and_refuses_the_next(words: str) -> None:
    """UNAVAILABLE with the engine's message, cut to gRPC's limit; the state is FAILED for new runs."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        await stream.submit({1: LONG})
        # 13 bytes and 2 of each letter that is not ASCII, 2,000 in all.
        assert await stream.refusal() == ("UNAVAILABLE", f"engine died: {words[:993]}")
        assert worker.servicer.engine_death is not None
        assert (await worker.stub.GetInfo(pb.GetInfoRequest())).state == pb.WORKER_STATE_FAILED
        expected = ("UNAVAILABLE", "worker is WORKER_STATE_FAILED")
        assert await refusal_of(worker.channel) == expected

    walk(steps, DyingEngine(words))
