"""Random lives of a few workers: whatever is lost, moved or taken back, each answer comes whole and once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.coordinator.scheduling.links import LENGTH, STOP
from tests.coordinator.scheduling.test_scheduler import BUDGET, NUM_SAMPLES, PROMPTS, Ways

DEEDS = ["step", "step", "step", "step", "lose", "back", "move", "late", "issue", "look"]
SLOTS = (1, 4, 8)


def answer(sample: int) -> list[int]:
    """Compute an answer: of 1 to 9 tokens those that the budget allows, all of them different."""
    return [100 * sample + k for k in range(1, 2 + sample % 9)][:BUDGET]


class Workers:
    """What the other ends of the links do."""

    def __init__(self, ways: Ways, draw: st.DataObject) -> None:
        self.ways, self.data = ways, draw
        self.num_late = 0
        self.num_issued = 0
        self.now_ns = 0

    def do(self, deed: str, index: int) -> None:
        """Let one thing happen to one worker; what it cannot do it leaves."""
        ways, link = self.ways, self.ways.links[index]
        if deed == "issue":
            num = min(self.data.draw(st.integers(0, 12)), NUM_SAMPLES - self.num_issued)
            ways.issue(*range(self.num_issued, self.num_issued + num))
            self.num_issued += num
        elif deed == "back" and not link.live:
            link.come_back()
            ways.flow.dispatch()
        elif deed == "lose" and link.live:
            ways.lose(index)
        elif deed == "move" and link.live:
            held = [slot for slot in ways.ledger.held_by(index).tolist() if self.data.draw(st.booleans())]
            ways.flow.move(link, np.array(held, np.int64), "too slow")
        elif deed == "look":
            self.now_ns += 1_000_000_000
            for other in ways.links:
                rate = self.data.draw(st.sampled_from([0.0, 1.0, 10.0, 1000.0]))
                other.pace = other.pace._replace(full_tokens_per_s=rate)
            ways.flow.look(self.now_ns)
        elif deed in ("step", "late") and link.live:
            self.step(index, late=deed == "late")

    def step(self, index: int, late: bool) -> None:
        """Bring up to 3 tokens of some requests, each computed from what the worker was sent and brought."""
        ways, sent = self.ways, self.ways.links[index].sent
        held = set(ways.ledger.names(ways.ledger.held_by(index)).tolist())
        rows, ends = {}, {}
        for name, prompt, budget, produced in zip(
            sent.names, sent.prompts, sent.budgets, sent.produced, strict=True
        ):
            if name not in held or not self.data.draw(st.booleans()):
                continue
            whole = answer(prompt[0])
            split = len(prompt) - produced
            assert (PROMPTS[prompt[0]], whole[:produced]) == (prompt[:split], prompt[split:])
            assert BUDGET - produced == budget
            slot = name % 2**32
            have = ways.ledger.token_counts(np.array([slot]))[0]
            rows[name] = whole[have : have + self.data.draw(st.integers(0, 3))]
            if have + len(rows[name]) == len(whole) and self.data.draw(st.booleans()):
                ends[len(rows) - 1] = LENGTH if len(whole) == BUDGET else STOP
        if late:
            moved = sorted(ways.links[index].moved)[:2]
            rows |= {name: [-1, -1] for name in moved}
            self.num_late += 2 * len(moved)
        ways.bring(index, rows, ends)


@pytest.mark.parametrize("server", [False, True])
@settings(derandomize=True, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 2)), min_size=20, max_size=60), st.data())
def test_every_answer_arrives_whole_and_once(
    server: bool, deeds: list[tuple[str, int]], data: st.DataObject
) -> None:
    """No token is lost, doubled or asked for again; no window exceeded, no worker idle; counts end at 0."""
    ways = Ways(server, *SLOTS, max_losses=1000)
    workers = Workers(ways, data)
    ways.issue(*range(20))
    workers.num_issued = 20
    for deed, index in deeds:
        workers.do(deed, index)
        held = ways.outstanding()
        assert server or all(num <= slots + 1 for num, slots in zip(held, SLOTS, strict=True))
        assert [link.index for link in ways.links if link.live] or sum(held) == 0
        assert not ways.flow.backlog or all(held[link.index] for link in ways.links if link.live)
    for link in ways.links:
        workers.do("back", link.index)
    for _ in range(NUM_SAMPLES):
        drain(ways)
    assert (0, 0) == (ways.ledger.num_running, len(ways.flow.backlog))
    samples = range(workers.num_issued)
    assert [(1000 + sample, answer(sample)) for sample in samples] == sorted(ways.sut.answers)
    firsts = [(1000 + sample, 100 * sample + 1) for sample in samples]
    assert (firsts if server else []) == sorted(ways.sut.firsts)
    assert [(0, 0)] * 3 == [(link.outstanding, link.waiting_prefill_tokens) for link in ways.links]
    assert workers.num_late == sum(link.num_dropped_tokens for link in ways.links)
    assert sum(len(answer(sample)) for sample in samples) == ways.ledger.num_tokens
    assert [] == ways.failures


def drain(ways: Ways) -> None:
    """Let each worker bring the rest of all that it has."""
    for link in ways.links:
        slots = ways.ledger.held_by(link.index)
        samples = ways.ledger.rows(slots)["sample"].tolist()
        counts = ways.ledger.token_counts(slots)
        names = ways.ledger.names(slots).tolist()
        rows = {n: answer(s)[c:] for n, s, c in zip(names, samples, counts, strict=True)}
        ways.bring(link.index, rows, dict.fromkeys(range(len(rows)), STOP))
