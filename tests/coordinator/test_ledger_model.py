"""The ledger against a model of it: a plain dict of lists, driven through the same random life."""

import ctypes

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coordinator.ledger import Ledger
from protos import worker_pb2 as pb
from protos.frames import TokenColumns

BUDGET = 7
NUM_WORKERS = 3


class LedgerLife(RuleBasedStateMachine):
    """Random assignments, frames and ends; after each, ledger and model hold the same."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(BUDGET, num_slots=1)
        self.answers: dict[int, list[int]] = {}
        self.workers: dict[int, int] = {}
        self.ids: dict[int, int] = {}
        self.used_names: set[int] = set()
        self.done: list[tuple[int, int, int]] = []
        self.num_issued = 0
        self.num_tokens = 0

    @rule(worker=st.integers(0, NUM_WORKERS - 1), num=st.integers(0, 5))
    def issue(self, worker: int, num: int) -> None:
        """Assign requests; their names were never used before."""
        ids = np.arange(self.num_issued, self.num_issued + num, dtype=np.uint64)
        self.num_issued += num
        slots, names = self.ledger.assign(ids, worker, {"sample": ids.astype(np.int64)})
        assert slots.tolist() == [name & 0xFFFFFFFF for name in names.tolist()]
        for name, id_ in zip(names.tolist(), ids.tolist(), strict=True):
            assert name not in self.used_names
            self.used_names.add(name)
            self.answers[name], self.workers[name], self.ids[name] = [], worker, id_

    @precondition(lambda self: self.answers)
    @rule(data=st.data(), ones=st.booleans())
    def receive(self, data: st.DataObject, ones: bool) -> None:
        """Add a frame of one worker, some of whose rows end; the arrivals are those of the model."""
        worker = data.draw(st.sampled_from(sorted(set(self.workers.values()))))
        mine = [name for name, owner in self.workers.items() if owner == worker]
        names = [
            n
            for n in data.draw(st.permutations(mine))
            if len(self.answers[n]) < BUDGET and data.draw(st.booleans())
        ]
        room = {name: BUDGET - len(self.answers[name]) for name in names}
        counts = [1 if ones else data.draw(st.integers(0, room[name])) for name in names]
        ends = [row for row in range(len(names)) if data.draw(st.booleans())]
        new = [
            list(range(self.num_tokens + 100 * row, self.num_tokens + 100 * row + n))
            for row, n in enumerate(counts)
        ]
        columns = TokenColumns(
            requests=np.array(names, np.uint64),
            counts=None if ones else np.array(counts, np.uint32),
            tokens=np.array([token for row in new for token in row], np.int32),
            finished_rows=np.array(ends, np.uint32),
            finish_reasons=np.full(len(ends), pb.FINISH_REASON_STOP, np.uint8),
            produced_ns=0,
        )
        arrivals = self.ledger.add_tokens(worker, columns, now_ns=1)
        firsts = [n for n, row in zip(names, new, strict=True) if row and not self.answers[n]]
        assert [n & 0xFFFFFFFF for n in firsts] == arrivals.first_slots.tolist()
        assert [names[row] & 0xFFFFFFFF for row in ends] == arrivals.finished_slots.tolist()
        for name, added in zip(names, new, strict=True):
            self.answers[name] += added
        self.num_tokens += sum(counts)
        self.check_answers()
        self.ledger.finish(arrivals.finished_slots, arrivals.finish_reasons, now_ns=2)
        for row in ends:
            answer = self.answers.pop(names[row])
            self.done.append((self.ids[names[row]], self.workers.pop(names[row]), len(answer)))

    @invariant()
    def check_answers(self) -> None:
        """Every request in flight has its own tokens at its address, and nothing else counts."""
        for name, answer in self.answers.items():
            slot = np.array([name & 0xFFFFFFFF])
            assert [len(answer)] == self.ledger.token_counts(slot)
            assert [self.ids[name]] == self.ledger.loadgen_ids(slot)
            raw = ctypes.string_at(self.ledger.addresses(slot)[0], 4 * len(answer))
            assert np.array(answer, "<i4").tobytes() == raw
        assert self.num_tokens == self.ledger.num_tokens

    @invariant()
    def check_record(self) -> None:
        """The record holds exactly what has finished, in order; the rest is running."""
        assert self.done == self.ledger.done[["sample", "worker", "num_tokens"]].tolist()
        assert (len(self.answers), len(self.done)) == (self.ledger.num_running, self.ledger.num_done)


TestLedgerLife = LedgerLife.TestCase
TestLedgerLife.settings = settings(deadline=None, derandomize=True, max_examples=60, stateful_step_count=25)
