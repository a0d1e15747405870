"""Limits of a worker: a run that exceeds one ends, and its status gives value and limit."""

import asyncio

import numpy as np
import pytest

from protos import worker_pb2 as pb
from protos.columns import PromptColumns
from tests.worker.raw_client import MAX_MODEL_LEN, Worker, assert_empty, open_when_free, refusal_of, walk
from worker import admission
from worker.admission import MAX_PROMPT_TOKENS, MAX_REQUESTS, InFlight, LimitExceeded
from worker.engines.scripted.counting import CountingConfig, CountingEngine

LONG = [10_000, 7]
SHORT = [2, 70]


def prompts(first: int, num: int, prompt_len: int) -> PromptColumns:
    """Make prompts of equal length, named from `first` on."""
    return PromptColumns(
        np.arange(first, first + num, dtype=np.uint64),
        np.full(num, prompt_len, np.uint32),
        np.zeros(num * prompt_len, np.int32),
        np.ones(num, np.uint32),
        np.zeros(num, np.uint32),
    )


def test_a_million_requests_are_in_flight_at_most() -> None:
    """2**20 requests are accepted and one more is refused; each one that ends makes room for another."""
    in_flight = InFlight()
    in_flight.add(prompts(0, 1 << 20, 1), 0)
    with pytest.raises(LimitExceeded, match=r"^1048577 requests in flight, this worker takes 1048576$"):
        in_flight.add(prompts(1 << 20, 1, 1), 0)
    in_flight.remove(np.array([5, 1 << 40], np.uint64))
    in_flight.add(prompts(1 << 20, 1, 1), 0)
    with pytest.raises(LimitExceeded):
        in_flight.add(prompts(2 << 20, 1, 1), 0)
    assert (MAX_REQUESTS, MAX_PROMPT_TOKENS) == (1_048_576, 268_435_456)


def test_what_is_refused_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Submit beyond the token limit adds nothing, and requests that end free their tokens."""
    monkeypatch.setattr(admission, "MAX_PROMPT_TOKENS", 10)
    in_flight = InFlight()
    in_flight.add(prompts(0, 2, 4), 0)
    for _ in range(2):
        with pytest.raises(LimitExceeded, match=r"^11 prompt tokens in flight, this worker takes 10$"):
            in_flight.add(prompts(2, 1, 3), 0)
    in_flight.add(prompts(2, 1, 2), 0)
    in_flight.remove(np.array([1], np.uint64))
    in_flight.add(prompts(3, 2, 2), 0)


@pytest.mark.parametrize(
    "bound, value, words",
    [
        ("MAX_REQUESTS", 3, "4 requests in flight, this worker takes 3"),
        ("MAX_PROMPT_TOKENS", 7, "8 prompt tokens in flight, this worker takes 7"),
    ],
)
def test_too_much_in_flight_ends_the_run(
    bound: str, value: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RESOURCE_EXHAUSTED gives both numbers; ended and cancelled requests are not counted."""
    monkeypatch.setattr(admission, bound, value)

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        for name in range(10, 40, 3):
            await stream.submit(dict.fromkeys(range(name, name + 3), SHORT))
            await stream.take_until_ended(name, name + 1, name + 2)
        await stream.submit(dict.fromkeys((1, 2, 3), LONG), budget=10_000)
        await stream.send(cancel=pb.Cancel(requests=(2).to_bytes(8, "little")))
        await stream.submit({4: LONG}, budget=10_000)
        await stream.submit({5: LONG}, budget=10_000)
        assert await stream.refusal() == ("RESOURCE_EXHAUSTED", words)
        await assert_empty(await open_when_free(worker, "next"))

    walk(steps)


def test_a_request_that_is_in_flight_is_not_taken_twice() -> None:
    """INVALID_ARGUMENT names it; after its end or cancel its name can be used again."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        await stream.submit({7: SHORT, 8: LONG}, budget=10_000)
        await stream.take_until_ended(7)
        del stream.reasons[7], stream.answers[7]
        await stream.send(cancel=pb.Cancel(requests=(8).to_bytes(8, "little")))
        await stream.submit({7: [3, 90]})
        await stream.take_until_ended(7)
        del stream.answers[8]
        await stream.submit({8: [3, 20]})
        await stream.take_until_ended(8)
        assert (stream.answers[7], stream.answers[8]) == ([91, 92, 200_002], [21, 22, 200_002])
        await stream.submit({1: SHORT, 9: LONG}, budget=10_000)
        await stream.submit({3: SHORT, 9: SHORT})
        assert await stream.refusal() == ("INVALID_ARGUMENT", "submit: request 9 is in flight already")
        await assert_empty(await open_when_free(worker, "next"))

    walk(steps)


@pytest.mark.parametrize(
    "run_id, words",
    [
        ("x" * 257, "run_id of 257 characters, at most 256 are taken"),
        ("two\nlines", r"run_id 'two\nlines' is not printable"),
        ("\x1b[31m", r"run_id '\x1b[31m' is not printable"),
    ],
)
def test_a_run_id_that_would_spoil_a_log_is_refused(run_id: str, words: str) -> None:
    """INVALID_ARGUMENT quotes it escaped, and the worker stays free."""

    async def steps(worker: Worker) -> None:
        assert await refusal_of(worker.channel, run_id=run_id) == ("INVALID_ARGUMENT", words)
        opened = await worker.stream().open("\u00e4" * 256)
        assert opened.run_id == "\u00e4" * 256

    walk(steps)


async def holds_run(worker: Worker) -> bool:
    """Return whether a run holds the worker now and for half a second more."""
    for _ in range(50):
        load = await worker.stub.GetLoad(pb.GetLoadRequest())
        if not load.run_id:
            return False
        await asyncio.sleep(0.01)
    return True


def test_pongs_that_nobody_reads_end_the_run() -> None:
    """More than a thousand pings of a client that does not read end the run with RESOURCE_EXHAUSTED."""

    async def steps(worker: Worker) -> None:
        stream = worker.stream()
        await stream.open()
        # Ten million tokens: more than any window between the two takes.
        await stream.submit(dict.fromkeys(range(1000), LONG), budget=10_000)
        # Until the writer stands before a frame that does not go out, pongs do.
        while await holds_run(worker):
            for nonce in range(1026):
                await stream.send(ping=pb.Ping(nonce=nonce))
        expected = ("RESOURCE_EXHAUSTED", "1024 pongs unread, this worker keeps 1024")
        assert await stream.refusal() == expected
        await assert_empty(await open_when_free(worker, "next"))

    walk(steps, CountingEngine(CountingConfig(step_ms=0, max_num_seqs=1000, max_model_len=MAX_MODEL_LEN)))
