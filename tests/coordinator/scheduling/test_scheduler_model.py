"""Random lives of a few workers: whatever is lost, moved or taken back, each answer comes whole and once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.coordinator.scheduling.links import LENGTH, STOP, STOP_ID
from tests.coordinator.scheduling.test_scheduler import BUDGET, NUM_SAMPLES, PROMPTS, Fleet

DEEDS = ["step", "step", "step", "step", "lose", "back", "move", "late", "issue", "look"]
SLOTS = (1, 4, 8)


def answer(sample: int) -> list[int]:
    """Compute an answer of 1 to 9 tokens, all different; it ends with the budget or on a stop id."""
    whole = [100 * sample + k for k in range(1, 2 + sample % 9)][:BUDGET]
    return whole if len(whole) == BUDGET else [*whole[:-1], STOP_ID]


class Workers:
    """What the other ends of the links do."""

    def __init__(self, fleet: Fleet, draw: st.DataObject) -> None:
        self.fleet, self.data = fleet, draw
        self.num_late = 0
        self.num_issued = 0
        self.now_ns = 0

    def do(self, deed: str, index: int) -> None:
        """Let one thing happen to one worker; what it cannot do it leaves."""
        fleet = self.fleet
        if deed == "issue":
            num = min(self.data.draw(st.integers(0, 12)), NUM_SAMPLES - self.num_issued)
            fleet.issue(*range(self.num_issued, self.num_issued + num))
            self.num_issued += num
        elif deed == "back" and index not in fleet.admitted:
            fleet.readmit(index)
        elif deed == "lose" and index in fleet.admitted:
            fleet.lose(index)
        elif deed == "move" and index in fleet.admitted:
            held = [slot for slot in fleet.table.held_by(index).tolist() if self.data.draw(st.booleans())]
            fleet.scheduler.move(index, np.array(held, np.int64), "too slow")
        elif deed == "look":
            self.now_ns += 1_000_000_000
            for load in fleet.loads:
                rate = self.data.draw(st.sampled_from([0.0, 1.0, 10.0, 1000.0]))
                load.throughput = load.throughput._replace(full_tokens_per_s=rate)
            fleet.scheduler.beat(self.now_ns)
        elif deed in ("step", "late") and index in fleet.admitted:
            self.step(index, late=deed == "late")

    def step(self, index: int, late: bool) -> None:
        """Bring up to 3 tokens of some requests, each computed from what the worker was sent and brought."""
        fleet, sent = self.fleet, self.fleet.links[index].sent
        held = set(fleet.table.names(fleet.table.held_by(index)).tolist())
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
            have = fleet.table.reportable([slot]).counts[0]
            rows[name] = whole[have : have + self.data.draw(st.integers(0, 3))]
            # The end of a full budget may come late; a stop id ends its answer at once.
            full = len(whole) == BUDGET
            if have + len(rows[name]) == len(whole) and (not full or self.data.draw(st.booleans())):
                ends[len(rows) - 1] = LENGTH if full else STOP
        if late:
            moved = sorted(fleet.loads[index].moved)[:2]
            rows |= {name: [-1, -1] for name in moved}
            self.num_late += 2 * len(moved)
        fleet.deliver(index, rows, ends)


@pytest.mark.parametrize("server", [False, True])
@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 2)), min_size=20, max_size=60), st.data())
def test_every_answer_arrives_whole_and_once(
    server: bool, deeds: list[tuple[str, int]], data: st.DataObject
) -> None:
    """No token is lost, doubled or asked for again; no window exceeded, no worker idle; counts end at 0."""
    fleet = Fleet(server, *SLOTS, max_losses=1000)
    workers = Workers(fleet, data)
    fleet.issue(*range(20))
    workers.num_issued = 20
    for deed, index in deeds:
        workers.do(deed, index)
        held = fleet.outstanding()
        assert server or all(num <= slots + 1 for num, slots in zip(held, SLOTS, strict=True))
        assert fleet.admitted or sum(held) == 0
        assert not fleet.scheduler.backlog or all(held[index] for index in fleet.admitted)
    for link in fleet.links:
        workers.do("back", link.index)
    for _ in range(NUM_SAMPLES):
        drain(fleet)
    assert (0, 0) == (fleet.table.num_in_flight, len(fleet.scheduler.backlog))
    samples = range(workers.num_issued)
    assert [(1000 + sample, answer(sample)) for sample in samples] == sorted(fleet.reports.answers)
    firsts = [(1000 + sample, answer(sample)[0]) for sample in samples]
    assert (firsts if server else []) == sorted(fleet.reports.firsts)
    assert [(0, 0)] * 3 == [(load.outstanding, load.waiting_prefill_tokens) for load in fleet.loads]
    assert workers.num_late == sum(load.num_dropped_tokens for load in fleet.loads)
    assert sum(len(answer(sample)) for sample in samples) == fleet.table.num_tokens
    assert [] == fleet.failures


def drain(fleet: Fleet) -> None:
    """Let each worker bring the rest of all that it has."""
    for link in fleet.links:
        slots = fleet.table.held_by(link.index)
        samples = fleet.table.rows(slots)["sample"].tolist()
        counts = fleet.table.reportable(slots.tolist()).counts
        names = fleet.table.names(slots).tolist()
        rows = {n: answer(s)[c:] for n, s, c in zip(names, samples, counts, strict=True)}
        ends = {row: LENGTH if len(answer(s)) == BUDGET else STOP for row, s in enumerate(samples)}
        fleet.deliver(link.index, rows, ends)
