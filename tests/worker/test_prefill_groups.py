"""Prompts reach the engine in groups: in order, each once, when a group is complete or its hold ends."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock

import numpy as np
import pytest

from protos import worker_pb2 as pb
from protos.columns import PromptColumns, TokenColumns
from tests.worker.asks import Ask, submit
from worker import prefill_groups
from worker.engine_protocol import EngineDead, EngineInfo, Load, Step
from worker.prefill_groups import PrefillGroups

SLOTS = 96
"""At most three prompts are a group."""
GROUP_TOKENS = 10
NEVER_S = 3600.0


class Clock:
    """A time that passes when the test says so; stands for the module `time`."""

    def __init__(self, s: float = 0.0) -> None:
        self.s = s

    def monotonic(self) -> float:
        """Return it."""
        return self.s


class RecordedEngine:
    """Keeps what it is given; a request ends when the test says so."""

    def __init__(self, num_slots: int = SLOTS) -> None:
        self.num_slots = num_slots
        self.groups: list[list[int]] = []
        self.lens: list[int] = []
        self.given: list[tuple[int, list[int], int, int]] = []
        """Name, prompt, budget and `produced` of each request."""
        self.cancelled: list[int] = []
        self.finished: asyncio.Queue[list[int]] = asyncio.Queue()
        self.num_resets = 0

    async def start(self) -> EngineInfo:
        """Say how many slots it has."""
        return EngineInfo(
            engine="recorded",
            engine_version="1",
            model="none",
            model_hash="",
            vocab_size=10,
            max_model_len=100,
            max_num_seqs=self.num_slots,
            tensor_parallel_size=1,
            stop_token_ids=(1,),
        )

    def open(self, spec: pb.RunSpec) -> None:
        """Take any parameters."""

    def submit(self, prompts: PromptColumns) -> None:
        """Keep the names of a group, and its lengths."""
        self.groups.append(prompts.requests.tolist())
        self.lens += prompts.prompt_lens.tolist()
        ends = prompts.prompt_lens.cumsum(dtype=np.int64)
        tokens = [part.tolist() for part in np.split(prompts.prompt_tokens, ends)]
        assert tokens.pop() == []
        columns = (prompts.requests, prompts.max_new_tokens, prompts.produced)
        names, budgets, produced = (column.tolist() for column in columns)
        self.given += zip(names, tokens, budgets, produced, strict=True)

    def cancel(self, requests: list[int]) -> None:
        """Keep the names."""
        self.cancelled += requests

    async def step(self) -> Step:
        """Return the next end of requests, each with one token."""
        names = await self.finished.get()
        num = len(names)
        columns = TokenColumns(
            requests=np.array(names, np.uint64),
            counts=None,
            tokens=np.zeros(num, np.int32),
            finished_rows=np.arange(num, dtype=np.uint32),
            finish_reasons=np.full(num, pb.FINISH_REASON_STOP, np.uint8),
            produced_ns=1,
            times=None,
        )
        return Step(columns, urgent=True)

    def load(self) -> Load:
        """Say always the same."""
        return Load(self.num_slots, 1)

    async def reset(self) -> None:
        """Count the call."""
        self.num_resets += 1

    async def close(self) -> None:
        """Stop nothing."""


class Grouped:
    """Groups over a recorded engine whose slots are taken by requests 0 to SLOTS - 1."""

    def __init__(self, hold_s: float) -> None:
        self.engine = RecordedEngine()
        self.groups = PrefillGroups(self.engine, GROUP_TOKENS, hold_s)

    async def fill(self) -> None:
        """Take every slot, with prompts that are a group each."""
        self.info = await self.groups.start()
        self.ask(0, *[GROUP_TOKENS] * SLOTS)
        assert self.engine.groups == [[name] for name in range(SLOTS)]
        self.engine.groups.clear()
        self.engine.lens.clear()

    def ask(self, first_name: int, *prompt_lens: int) -> None:
        """Submit prompts of these lengths."""
        submit(self.groups, {first_name + row: Ask([5] * num) for row, num in enumerate(prompt_lens)})

    async def end(self, *names: int) -> None:
        """Return a step that finishes these requests."""
        self.engine.finished.put_nowait(list(names))
        await self.groups.step()


def run(work: Callable[[Grouped], Coroutine[Any, Any, None]], hold_s: float = NEVER_S) -> Grouped:
    """Run a test on a filled engine."""
    grouped = Grouped(hold_s)

    async def walk() -> None:
        await grouped.fill()
        async with asyncio.timeout(30):
            await work(grouped)
        await grouped.groups.close()

    asyncio.run(walk())
    return grouped


def test_a_group_goes_when_it_is_complete_and_has_slots() -> None:
    """4 + 4 tokens are a group, because 4 more would be 12: it needs two free slots, and the order stays."""

    async def work(grouped: Grouped) -> None:
        grouped.ask(100, 4, 4, 4, 4)
        assert (SLOTS, 5) == grouped.groups.load()[:2]
        await grouped.end(0)
        assert grouped.engine.groups == []
        await grouped.end(1)
        assert grouped.engine.groups == [[100, 101]]
        # Two more slots, but nothing says that the other two are all of their group.
        await grouped.end(2, 3)
        assert grouped.engine.groups == [[100, 101]]
        grouped.ask(104, 3)
        assert grouped.engine.groups == [[100, 101], [102, 103]]
        assert grouped.engine.lens == [4, 4, 4, 4]

    run(work)


@pytest.mark.parametrize("prompt_lens", [(GROUP_TOKENS,), (30,), (4, 6), (1, 1, 1)])
def test_a_group_waits_for_no_prompt_that_cannot_be_part_of_it(prompt_lens: tuple[int, ...]) -> None:
    """As many tokens as a group has, more in one prompt, or three prompts: nothing may follow."""

    async def work(grouped: Grouped) -> None:
        await grouped.end(0, 1, 2)
        grouped.ask(100, *prompt_lens)
        assert grouped.engine.groups == [[100 + row for row in range(len(prompt_lens))]]

    run(work)


def test_a_prompt_longer_than_a_group_goes_alone() -> None:
    """The short prompt behind it is not part of its group, and waits."""

    async def work(grouped: Grouped) -> None:
        await grouped.end(0, 1, 2)
        grouped.ask(100, 30, 2)
        assert (grouped.engine.groups, grouped.engine.lens) == ([[100]], [30])

    run(work)


@pytest.mark.parametrize("num_slots", [1, 2, 63])
def test_with_few_slots_no_prompt_waits_for_another(num_slots: int) -> None:
    """Below 64 slots a group is one prompt: with a free slot a lone one goes at once."""

    async def work() -> None:
        engine = RecordedEngine(num_slots)
        groups = PrefillGroups(engine, GROUP_TOKENS, NEVER_S)
        await groups.start()
        for name in range(num_slots + 1):
            submit(groups, {name: Ask([5])})
        assert engine.groups == [[name] for name in range(num_slots)]
        engine.finished.put_nowait([0])
        await groups.step()
        assert engine.groups == [[name] for name in range(num_slots + 1)]

    asyncio.run(work())


def test_a_group_takes_few_slots() -> None:
    """Three of 96, though a fourth prompt of one token would fit."""

    async def work(grouped: Grouped) -> None:
        await grouped.end(*range(9))
        grouped.ask(100, 1, 1, 1, 1)
        assert grouped.engine.groups == [[100, 101, 102]]

    run(work)


def test_an_incomplete_group_goes_after_the_hold() -> None:
    """With one free slot one of the two prompts goes; the other one has a hold of its own, with the next."""
    now = Clock()

    async def work(grouped: Grouped) -> None:
        grouped.ask(100, 1, 1)
        now.s += 100
        # Nothing was free until here.
        await grouped.end(0)
        now.s += 4.9
        await grouped.end()
        assert grouped.engine.groups == []
        now.s += 0.2
        await grouped.end()
        assert grouped.engine.groups == [[100]]
        await grouped.end(1)
        assert grouped.engine.groups == [[100]]
        now.s += 5.1
        await grouped.end()
        assert grouped.engine.groups == [[100], [101]]

    with mock.patch.object(prefill_groups, "time", now):
        run(work, hold_s=5)


def test_without_a_hold_a_free_slot_is_taken_at_once() -> None:
    """With 0 ms nothing waits for another prompt, in a full engine only for a slot."""

    async def work(grouped: Grouped) -> None:
        await grouped.end(0, 1)
        grouped.ask(100, 1)
        grouped.ask(101, 1)
        grouped.ask(102, 1)
        assert grouped.engine.groups == [[100], [101]]

    run(work, hold_s=0)


def test_a_failure_to_submit_held_prompts_reaches_the_caller_of_step() -> None:
    """What ends a hold is a step, so that the engine's reason becomes the worker's."""

    async def work(grouped: Grouped) -> None:
        await grouped.end(0)
        grouped.ask(100, 1)
        with (
            mock.patch.object(grouped.engine, "submit", side_effect=EngineDead("no memory")),
            mock.patch.object(prefill_groups, "time", Clock(time.monotonic() + 2 * NEVER_S)),
            pytest.raises(EngineDead, match="no memory"),
        ):
            await grouped.end()

    run(work)


def test_a_silent_engine_ends_a_hold_too() -> None:
    """The engine returns no step, as if it had forgotten its requests: the free slot is used all the same."""

    async def work(grouped: Grouped) -> None:
        await grouped.end(0)
        grouped.ask(100, 1)
        stepping = asyncio.ensure_future(grouped.groups.step())
        done, _ = await asyncio.wait({stepping}, timeout=3 * prefill_groups.SILENT_S)
        assert (grouped.engine.groups, done) == ([[100]], set())
        stepping.cancel()

    run(work, hold_s=0.01)


def test_an_idle_engine_waits_for_no_group() -> None:
    """When the last request has ended, what is held goes at once."""

    async def work(grouped: Grouped) -> None:
        await grouped.end(*range(SLOTS - 1))
        grouped.ask(100, 1)
        assert grouped.engine.groups == []
        await grouped.end(SLOTS - 1)
        assert grouped.engine.groups == [[100]]

    run(work)


def test_a_cancelled_prompt_never_reaches_the_engine() -> None:
    """Held ones are dropped, those in the engine are cancelled there and leave their slots to a group."""

    async def work(grouped: Grouped) -> None:
        grouped.ask(100, 4, 4, 4)
        grouped.groups.cancel([100])
        assert (SLOTS, 3) == grouped.groups.load()[:2]
        grouped.ask(200, 4)
        grouped.groups.cancel([7, 8])
        assert {7, 8} <= set(grouped.engine.cancelled)
        assert grouped.engine.groups == [[101, 102]]

    run(work)


def test_a_reset_drops_held_prompts_and_their_hold() -> None:
    """Nothing of the old run reaches the engine later; the next run has all slots and a hold of its own."""
    now = Clock()

    async def work(grouped: Grouped) -> None:
        await grouped.end(0)
        grouped.ask(100, 1)
        await grouped.groups.reset()
        now.s += 5.1
        await grouped.end()
        assert (grouped.engine.groups, grouped.engine.num_resets) == ([], 1)
        grouped.ask(100, 6, 6, 6)
        assert grouped.engine.groups == [[100], [101]]

    with mock.patch.object(prefill_groups, "time", now):
        run(work, hold_s=5)


def test_the_flags_are_on_record() -> None:
    """The engine's arguments name the groups, so that a run's record has them."""

    async def work(grouped: Grouped) -> None:
        assert grouped.info.engine_args == {"prefill_group_tokens": "10", "prefill_hold_ms": "3600000.0"}

    run(work)
