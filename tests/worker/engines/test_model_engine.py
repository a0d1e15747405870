"""ModelEngine over an engine that records what it is sent and returns the steps that a test writes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from protos import worker_pb2 as pb
from protos.columns import TokenIds
from tests.worker.asks import Ask, answer, run, submit
from worker.engine_protocol import EngineDead, Step
from worker.engines.model.model_engine import FEED_SIZE, ModelEngine

Row = tuple[str, list[int], int | None]


class RecordingEngine(ModelEngine[Sequence[Row]]):
    """Each `busy` is awaited before a request or an abort counts as sent."""

    def __init__(
        self, busy: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0), reset_timeout_s: float = 60.0
    ) -> None:
        super().__init__(reset_timeout_s)
        self.sent: list[str] = []
        self.outputs: asyncio.Queue[Sequence[Row]] = asyncio.Queue()
        self._busy = busy

    def begin(self) -> None:
        """Receive steps."""
        self._run(self._read())

    async def _send(self, request_id: str, prompt: TokenIds, budget: int) -> None:
        await self._busy()
        self.sent.append(f"{request_id}: {prompt.tolist()} {budget}")

    async def _abort(self, request_ids: list[str]) -> None:
        await self._busy()
        self.sent.append(f"abort {' '.join(request_ids)}")

    async def _receive(self) -> Sequence[Row]:
        return await self.outputs.get()

    def _to_step(self, output: Sequence[Row], produced_ns: int) -> Step | None:
        kept = [row for row in output if row[0] in self._requests.names]
        if not kept:
            return None
        ids, tokens = [row[0] for row in kept], [row[1] for row in kept]
        first = dict.fromkeys(self._requests.first_token_rows(ids, tokens), 0)
        ends = {index: reason for index, (_, _, reason) in enumerate(kept) if reason is not None}
        return self._requests.take_step(ids, tokens, first, ends, produced_ns)

    def _reason(self, error: BaseException) -> str:
        return f"{type(error).__name__}: {error}"


async def turns(num: int) -> None:
    """Let the event loop run the tasks that are ready, several times."""
    for _ in range(num):
        await asyncio.sleep(0)


def test_requests_are_sent_in_their_order() -> None:
    """A cancelled request is not sent if it waits, and aborted before the next ones are sent if it does not.

    The ids number the requests sent: 1 to 16 are those of the first turn, so the abort names 2-102.
    """

    async def walk() -> list[str]:
        engine = RecordingEngine()
        submit(engine, {name: Ask([name, 5], 7) for name in range(101, 101 + FEED_SIZE + 2)})
        assert (0, FEED_SIZE + 2) == engine.load()[:2]
        while len(engine.sent) < FEED_SIZE:
            await turns(1)
        engine.cancel([102, 101 + FEED_SIZE])
        await turns(20)
        assert (0, FEED_SIZE) == engine.load()[:2]
        return engine.sent

    sent = run(walk())
    assert [f"{i + 1}-{101 + i}: [{101 + i}, 5] 7" for i in range(FEED_SIZE)] == sent[:FEED_SIZE]
    assert ["abort 2-102", "17-118: [118, 5] 7"] == sent[FEED_SIZE:]


def test_steps_become_answers_and_a_reset_forgets_those_that_wait() -> None:
    """Steps in the queue at a reset are dropped; the next run may use the same name."""

    async def walk() -> dict[int, tuple[list[int], int]]:
        engine = RecordingEngine()
        engine.begin()
        submit(engine, {7: Ask([1])})
        await turns(5)
        engine.outputs.put_nowait([("1-7", [40], None)])
        await turns(5)
        await engine.reset()
        submit(engine, {7: Ask([1])})
        await turns(5)
        engine.outputs.put_nowait([("1-7", [41], None), ("2-7", [50], None)])
        engine.outputs.put_nowait([("2-7", [51, 52], pb.FINISH_REASON_STOP)])
        answers = await answer(engine, 1)
        assert ["1-7: [1] 100", "abort 1-7", "2-7: [1] 100"] == engine.sent
        await engine.close()
        return answers

    assert {7: ([50, 51, 52], pb.FINISH_REASON_STOP)} == run(walk())


def test_a_reset_aborts_the_request_that_is_being_sent() -> None:
    """The abort follows the request; an abort before it would leave it in the engine."""

    async def walk() -> list[str]:
        gate = asyncio.Event()

        async def busy() -> None:
            await gate.wait()

        engine = RecordingEngine(busy)
        submit(engine, {1: Ask([4], 9), 2: Ask([5], 9)})
        await turns(3)
        resetting = asyncio.create_task(engine.reset())
        await turns(3)
        gate.set()
        await resetting
        return engine.sent

    assert ["1-1: [4] 9", "abort 1-1"] == run(walk())


def test_an_engine_that_does_not_abort_in_time_is_dead() -> None:
    """`reset` returns; `step` then tells the reason. The engine of the test has 0.05 s."""

    async def walk() -> None:
        engine = RecordingEngine(asyncio.Event().wait, reset_timeout_s=0.05)
        submit(engine, {1: Ask([4])})
        await turns(3)
        await engine.reset()
        with pytest.raises(EngineDead, match=r"^its requests were not aborted within 0 s$"):
            await engine.step()
        await engine.close()

    run(walk())


def test_a_task_that_fails_is_the_death_of_the_engine() -> None:
    """The first reason counts; a step that waits ends, and a reset sends nothing more."""

    async def walk() -> None:
        async def busy() -> None:
            raise OverflowError("no room for a request")

        engine = RecordingEngine(busy)
        engine.begin()
        waiting = asyncio.create_task(engine.step())
        await turns(3)
        submit(engine, {1: Ask([4])})
        with pytest.raises(EngineDead, match=r"^OverflowError: no room for a request$"):
            await waiting
        await engine.reset()
        with pytest.raises(EngineDead, match=r"^OverflowError: no room for a request$"):
            await engine.step()
        await engine.close()
        assert [] == engine.sent

    run(walk())
