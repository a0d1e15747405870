"""Random deeds in a run: each prompt reaches the engine whole, once and in order; none is held for ever."""

import asyncio
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.asks import Ask, submit
from tests.worker.test_prefill_groups import GROUP_TOKENS, Clock, RecordedEngine
from worker import prefill_groups
from worker.prefill_groups import PrefillGroups


class RandomDeeds:
    """Random deeds over a recorded engine, and what each must lead to."""

    def __init__(self, num_slots: int) -> None:
        self.now = Clock()
        self.engine = RecordedEngine(num_slots)
        self.groups = PrefillGroups(self.engine, GROUP_TOKENS, 1.0)
        self.expected: list[tuple[int, list[int], int, int]] = []
        """Asked and neither cancelled nor dropped while held, in order."""
        self.num_asked = 0
        self.running: list[int] = []
        self.seen: set[int] = set()
        """Names that the engine was given."""

    async def walk(self, data: st.DataObject) -> None:
        """Do some deeds, then let everything end."""
        await self.groups.start()
        for deed in data.draw(st.lists(st.sampled_from(["ask", "ask", "cancel", "end", "wait", "reset"]))):
            await self.do(deed, data)
            self.check()
        for _ in range(len(self.expected) - len(self.engine.given)):
            await self.wait()
            self.check()
        assert len(self.running) == self.engine.num_slots or self.engine.given == self.expected
        while self.running:
            await self.end(self.running[:1])
            self.check()
        assert self.groups.load() == (self.engine.num_slots, 1, None, None)
        assert self.engine.given == self.expected

    async def do(self, deed: str, data: st.DataObject) -> None:
        """Let one of these happen."""
        if deed == "ask":
            self.ask(data.draw(st.lists(st.sampled_from([1, 3, 5, 10, 12]), min_size=1, max_size=12)))
        elif deed == "cancel":
            names = set(data.draw(st.lists(st.integers(0, max(self.num_asked - 1, 0)))))
            self.drop(names)
            self.groups.cancel(list(names))
        elif deed == "end":
            await self.end([name for name in self.running if data.draw(st.booleans())])
        elif deed == "wait":
            await self.wait()
        else:
            self.drop(set(range(self.num_asked)))
            await self.groups.reset()

    def ask(self, prompt_lens: list[int]) -> None:
        """Submit requests that differ in everything."""
        asks = {
            name: Ask([name] * num, budget=1000 + name, produced=name % num)
            for name, num in enumerate(prompt_lens, self.num_asked)
        }
        self.num_asked += len(asks)
        self.expected += [(name, list(ask.prompt), ask.budget, ask.produced) for name, ask in asks.items()]
        submit(self.groups, asks)

    def drop(self, names: set[int]) -> None:
        """Expect no more of these requests than what the engine has."""
        in_engine = {one[0] for one in self.engine.given}
        self.expected = [one for one in self.expected if one[0] in in_engine or one[0] not in names]
        self.running = [name for name in self.running if name not in names]

    async def wait(self) -> None:
        """Let the hold end; a step then gives the engine at least one prompt if it has a slot."""
        self.now.s += 1.0
        await self.end([])

    async def end(self, names: list[int]) -> None:
        """Return a step that finishes these requests."""
        self.running = [name for name in self.running if name not in names]
        self.engine.finished.put_nowait(names)
        await self.groups.step()

    def check(self) -> None:
        """Check the order, the slots, and that nothing is held in an idle engine."""
        given, num_seen = self.engine.given, len(self.seen)
        assert given == self.expected[: len(given)]
        self.running += [one[0] for one in given[num_seen:]]
        self.seen.update(one[0] for one in given)
        assert len(self.running) <= self.engine.num_slots
        assert self.running or len(given) == len(self.expected)


@settings(max_examples=40)
@given(st.data(), st.sampled_from([1, 4, 64, 100]))
def test_every_prompt_reaches_the_engine_once_and_in_order(data: st.DataObject, num_slots: int) -> None:
    """Any order of submits, cancels, ends, waits and resets; in the end nothing is held and all is whole."""
    deeds = RandomDeeds(num_slots)
    with mock.patch.object(prefill_groups, "time", deeds.now):
        asyncio.run(deeds.walk(data))
