"""What every engine must do, as a class of tests.

The file of a subclass has two fixtures: `runner`, one event loop for all its tests, and `served`. That of an
engine with processes kills each of them, with `reason_of_death`.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import pytest

from protos import worker_pb2 as pb
from tests.worker.asks import Ask, rows_of, submit
from tests.worker.engines.greedy import GREEDY, Answer, answers_of, bounded, finished
from worker.engine_protocol import Engine, EngineDead, EngineInfo

STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH


class Served(NamedTuple):
    """A started engine with known answers."""

    engine: Engine
    info: EngineInfo
    short: tuple[list[int], list[int]]
    """A prompt, and its answer of 4 to 10 tokens with the stop id."""
    long: tuple[list[int], list[int]]
    """A prompt, and the first 12 tokens of its answer, which has at least 400."""


async def reason_of_death(engine: Engine, kill: Callable[[], None]) -> str:
    """Kill a process of an idle engine; return the reason that `step` gives.

    `reset` and `close` still end, also a second `close`.
    """
    kill()
    with pytest.raises(EngineDead) as raised:
        await bounded(engine.step())
    await bounded(engine.reset())
    await bounded(engine.close())
    await bounded(engine.close())
    return str(raised.value)


class EngineContract:
    """The promises of worker.engine_protocol.Engine that do not depend on the model."""

    def ask(self, runner: asyncio.Runner, served: Served, *asks: Ask) -> list[Answer]:
        """Run one run from open to the last answer, then reset the engine."""

        async def walk() -> list[Answer]:
            served.engine.open(GREEDY)
            submit(served.engine, dict(enumerate(asks)))
            answers = await bounded(answers_of(served.engine, finished(*range(len(asks)))))
            await bounded(served.engine.reset())
            return [answers[name] for name in range(len(asks))]

        return runner.run(walk())

    def test_each_request_gets_its_own_answer(self, runner: asyncio.Runner, served: Served) -> None:
        """Requests of one message do not mix; tokens come in order; a stop id is the last token."""
        (short, answer), (long, begin) = served.short, served.long
        answers = self.ask(runner, served, Ask(short), Ask(long, 12), Ask(short), Ask(long, 7))
        assert answers == [
            *(Answer(answer, STOP), Answer(begin, LENGTH), Answer(answer, STOP), Answer(begin[:7], LENGTH)),
        ]
        assert answer[-1] in served.info.stop_token_ids

    def test_a_budget_ends_an_answer(self, runner: asyncio.Runner, served: Served) -> None:
        """Each row has its own budget: 1, the last token before the stop id, and the stop id itself."""
        (short, answer), (long, begin) = served.short, served.long
        num = len(answer)
        answers = self.ask(runner, served, Ask(long, 1), Ask(short, num - 1), Ask(short, num), Ask(short, 1))
        assert answers == [
            Answer(begin[:1], LENGTH),
            Answer(answer[:-1], LENGTH),
            Answer(answer, STOP),
            Answer(answer[:1], LENGTH),
        ]

    def test_an_answer_goes_on_after_tokens_produced_elsewhere(
        self, runner: asyncio.Runner, served: Served
    ) -> None:
        """A prompt that ends with two tokens of its answer gets the others."""
        prompt, answer = served.short
        (rest,) = self.ask(runner, served, Ask(prompt + answer[:2], len(answer) - 2, produced=2))
        assert Answer(answer[2:], STOP) == rest

    def test_cancelled_requests_say_nothing_more(self, runner: asyncio.Runner, served: Served) -> None:
        """A request cancelled while running or before it starts never ends; others do; unknown names pass."""
        engine = served.engine
        (short, answer), (long, begin) = served.short, served.long

        async def walk() -> dict[int, Answer]:
            engine.open(GREEDY)
            submit(engine, {1: Ask(long, 200), 2: Ask(long, 400), 3: Ask(short)})
            engine.cancel([3])
            answers = await bounded(answers_of(engine, lambda so_far: {1, 2} <= set(so_far)))
            engine.cancel([1, 77])
            submit(engine, {12: Ask(short)})
            await bounded(answers_of(engine, finished(12), answers))
            num_tokens = len(answers[1].tokens)
            await bounded(answers_of(engine, lambda so_far: len(so_far[2].tokens) > 15, answers))
            assert num_tokens == len(answers[1].tokens)
            assert (1, 0) == engine.load()[:2]
            await bounded(engine.reset())
            return answers

        answers = runner.run(walk())
        assert {1, 2, 12} == set(answers)
        assert (None, Answer(answer, STOP)) == (answers[1].reason, answers[12])
        assert begin == answers[2].tokens[:12]

    def test_load_counts_those_that_run_and_those_that_wait(
        self, runner: asyncio.Runner, served: Served
    ) -> None:
        """With six requests more than slots all wait at first, and six when the others have a token."""
        engine, num_slots = served.engine, served.info.max_num_seqs

        async def walk() -> list[tuple[int, int]]:
            engine.open(GREEDY)
            submit(engine, {name: Ask(served.long[0], 400) for name in range(num_slots + 6)})
            before = engine.load()
            await bounded(answers_of(engine, lambda answers: len(answers) == num_slots))
            during = engine.load()
            await bounded(engine.reset())
            return [load[:2] for load in (before, during, engine.load())]

        assert [(0, num_slots + 6), (num_slots, 6), (0, 0)] == runner.run(walk())

    def test_a_reset_forgets_every_request(self, runner: asyncio.Runner, served: Served) -> None:
        """After a reset the engine returns no old token, and the same names serve the next run."""
        engine = served.engine
        (short, answer), (long, begin) = served.short, served.long

        async def walk() -> None:
            engine.open(GREEDY)
            submit(engine, {name: Ask(long, 400) for name in range(served.info.max_num_seqs + 6)})
            await bounded(engine.step())
            await bounded(engine.reset())
            with pytest.raises(TimeoutError):
                await bounded(engine.step(), 0.05)

        runner.run(walk())
        answers = self.ask(runner, served, Ask(short), Ask(long, 3))
        assert [Answer(answer, STOP), Answer(begin[:3], LENGTH)] == answers

    def test_a_step_waits_for_work(self, runner: asyncio.Runner, served: Served) -> None:
        """A step that is awaited before a request is submitted has its first token; it is urgent."""
        engine = served.engine
        prompt, answer = served.short

        async def walk() -> tuple[bool, dict[int, list[int]]]:
            engine.open(GREEDY)
            waiting = asyncio.ensure_future(engine.step())
            await asyncio.sleep(0.01)
            assert not waiting.done()
            submit(engine, {5: Ask(prompt)})
            step = await bounded(waiting)
            await bounded(engine.reset())
            return step.urgent, rows_of(step)

        urgent, rows = runner.run(walk())
        assert urgent
        assert {5} == set(rows)
        assert rows[5] and rows[5] == answer[: len(rows[5])]
