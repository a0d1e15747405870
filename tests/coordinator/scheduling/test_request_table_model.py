"""The table against a model of it: a list of requests, driven through the same random life."""

import ctypes
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.scheduling.request_columns import NewRequests
from coordinator.scheduling.request_table import NO_WORKER, RequestTable
from protos import worker_pb2 as pb
from protos.columns import FrameError, TokenColumns

BUDGET = 7
NUM_WORKERS = 3
GENERATIONS = 1 << 32
STOP, LENGTH = pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH
workers = st.integers(0, NUM_WORKERS - 1)


@dataclass
class Request:
    """One request in flight."""

    id: int
    name: int
    worker: int
    prompt_len: int
    prefill_len: int
    losses: int = 0
    stalled_losses: int = 0
    given_tokens: int = 0
    """Tokens that it had when its worker got it."""
    answer: list[int] = field(default_factory=list)

    @property
    def slot(self) -> int:
        """Lower half of the name."""
        return self.name % GENERATIONS


def slots_of(requests: list[Request]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """List slots."""
    return np.array([request.slot for request in requests], np.int64)


def frame(names: list[int], new: list[list[int]], ends: list[int], ones: bool = False) -> TokenColumns:
    """Make a frame; `ends` lists the rows that end; `ones` leaves out counts."""
    return TokenColumns(
        requests=np.array(names, np.uint64),
        counts=None if ones else np.array([len(row) for row in new], np.uint32),
        tokens=np.array([token for row in new for token in row], np.int32),
        finished_rows=np.array(ends, np.uint32),
        finish_reasons=np.full(len(ends), STOP, np.uint8),
        produced_ns=0,
    )


class TableLife(RuleBasedStateMachine):
    """Random assignments, frames, moves and ends; after each, table and model hold the same."""

    def __init__(self) -> None:
        super().__init__()
        self.flying: list[Request] = []
        self.used_names: set[int] = set()
        self.old_names: list[int] = []
        self.done: list[tuple[int, int, int, int, int]] = []
        self.untaken: list[tuple[int, list[int]]] = []
        self.num_issued = self.num_tokens = 0

    @initialize(first=st.sampled_from([0, 5, GENERATIONS - 2, GENERATIONS - 1]))
    def begin(self, first: int) -> None:
        """Start empty; generations close to their bound soon begin again at 0."""
        self.first = first
        self.table = RequestTable(BUDGET, num_slots=1, first_generation=first)

    @rule(worker=workers, num=st.integers(0, 5))
    def issue(self, worker: int, num: int) -> None:
        """Assign requests; their names were never used before."""
        ids = np.arange(self.num_issued, self.num_issued + num, dtype=np.uint64)
        self.num_issued += num
        lens = 1 + ids.astype(np.int64) % 5
        names = self.table.assign(
            NewRequests(ids, ids.astype(np.int64), lens, 0 * lens, 7, 10 * ids.astype(np.int64)), worker
        )
        for name, id_, prompt_len in zip(names.tolist(), ids.tolist(), lens.tolist(), strict=True):
            self.note_name(name)
            self.flying.append(Request(id_, name, worker, prompt_len, prompt_len))

    @rule(worker=workers)
    def issue_one(self, worker: int) -> None:
        """Assign one request in plain integers: the same facts as among several."""
        id_, prompt_len = self.num_issued, 1 + self.num_issued % 5
        self.num_issued += 1
        name = self.table.assign_one((id_, id_, 0, 10 * id_), worker, prompt_len, 7)
        self.note_name(name)
        self.flying.append(Request(id_, name, worker, prompt_len, prompt_len))

    @precondition(lambda self: self.of_workers())
    @rule(data=st.data(), ones=st.booleans())
    def receive(self, data: st.DataObject, ones: bool) -> None:
        """Add a frame of one worker, some of whose rows end; the arrivals are those of the model."""
        worker = data.draw(st.sampled_from(sorted({r.worker for r in self.of_workers()})))
        mine = data.draw(st.permutations([r for r in self.flying if r.worker == worker]))
        rows = [r for r in mine if len(r.answer) < BUDGET and data.draw(st.booleans())]
        counts = [1 if ones else data.draw(st.integers(0, BUDGET - len(r.answer))) for r in rows]
        # An answer with tokens ends by STOP only with another one.
        may_end = [row for row, n in enumerate(counts) if n or not rows[row].answer]
        ends = [row for row in may_end if data.draw(st.integers(0, 3)) == 3]
        new = [[self.num_tokens + 100 * row + k for k in range(n)] for row, n in enumerate(counts)]
        arrivals = self.table.add_tokens(worker, frame([r.name for r in rows], new, ends, ones), now_ns=1)
        firsts = [r.slot for r, added in zip(rows, new, strict=True) if added and not r.answer]
        assert firsts == arrivals.first_slots
        assert [rows[row].slot for row in ends] == arrivals.finished_slots
        prefilled = 0
        for row, (request, added) in enumerate(zip(rows, new, strict=True)):
            request.answer += added
            if added or row in ends:
                prefilled += request.prefill_len
                request.prefill_len = 0
        assert prefilled == arrivals.prefilled_tokens
        self.num_tokens += sum(counts)
        self.check_answers()
        self.table.finish(arrivals.finished_slots, arrivals.finish_reasons, now_ns=2)
        for row in ends:
            self.end(rows[row], STOP)

    @precondition(lambda self: self.of_workers())
    @rule(data=st.data())
    def unassign(self, data: st.DataObject) -> None:
        """Take requests from their workers: next name, one loss more, tokens kept, nothing to prefill."""
        taken = self.draw_some(data, self.of_workers())
        self.table.unassign(slots_of(taken))
        for request in taken:
            self.retire_name(request)
            request.worker, request.prefill_len = NO_WORKER, 0
            request.losses += 1
            progress = len(request.answer) > request.given_tokens
            request.stalled_losses = 0 if progress else request.stalled_losses + 1

    @precondition(lambda self: len(self.of_workers()) < len(self.flying))
    @rule(data=st.data(), worker=workers)
    def reassign(self, data: st.DataObject, worker: int) -> None:
        """Give requests without a worker to one, which has to prefill what they have so far."""
        given = self.draw_some(data, [r for r in self.flying if r.worker == NO_WORKER])
        names = self.table.reassign(slots_of(given), worker, now_ns=9)
        assert [request.name for request in given] == names.tolist()
        for request in given:
            request.worker, request.prefill_len = worker, request.prompt_len + len(request.answer)
            request.given_tokens = len(request.answer)

    @precondition(lambda self: len(self.of_workers()) < len(self.flying))
    @rule(data=st.data())
    def end_without_worker(self, data: st.DataObject) -> None:
        """End requests that were taken away, as those whose budget is used up are."""
        ended = self.draw_some(data, [r for r in self.flying if r.worker == NO_WORKER])
        self.table.finish(slots_of(ended).tolist(), [LENGTH] * len(ended), now_ns=3)
        for request in ended:
            self.end(request, LENGTH)

    @rule()
    def take_answers(self) -> None:
        """Take what has finished since the last time, whole and in order."""
        samples, counts, tokens = self.table.take_answers()
        assert [id_ for id_, _ in self.untaken] == samples.tolist()
        assert [len(answer) for _, answer in self.untaken] == counts.tolist()
        assert [token for _, answer in self.untaken for token in answer] == tokens.tolist()
        self.untaken = []

    @precondition(lambda self: self.old_names)
    @rule(data=st.data(), worker=workers, ends=st.booleans())
    def refuse_an_old_name(self, data: st.DataObject, worker: int, ends: bool) -> None:
        """A name of the past is nobody's, also beside rows that are good."""
        self.check_refused(data, worker, data.draw(st.sampled_from(self.old_names)), ends)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), worker=workers, ends=st.booleans())
    def refuse_another_worker(self, data: st.DataObject, worker: int, ends: bool) -> None:
        """A request of another worker, or of none, is not this one's."""
        others = [r.name for r in self.flying if r.worker != worker]
        if others:
            self.check_refused(data, worker, data.draw(st.sampled_from(others)), ends)

    def check_refused(self, data: st.DataObject, worker: int, name: int, ends: bool) -> None:
        """Mix one bad row into good ones; the invariants find what it left behind."""
        names = [r.name for r in self.flying if r.worker == worker and len(r.answer) < BUDGET]
        names = data.draw(st.permutations([*names, name]))
        bad = frame(names, [[-1]] * len(names), [names.index(name)] if ends else [])
        with pytest.raises(FrameError, match=f"^worker {worker}: tokens of a request that it does not hold"):
            self.table.add_tokens(worker, bad, now_ns=99)

    def of_workers(self) -> list[Request]:
        """List the requests that a worker has."""
        return [request for request in self.flying if request.worker != NO_WORKER]

    def draw_some(self, data: st.DataObject, requests: list[Request]) -> list[Request]:
        """Draw some of the requests, in any order."""
        return [request for request in data.draw(st.permutations(requests)) if data.draw(st.booleans())]

    def note_name(self, name: int) -> None:
        """Check that a name is new."""
        assert name not in self.used_names
        self.used_names.add(name)

    def retire_name(self, request: Request) -> None:
        """Move a request to the next generation of its slot."""
        self.old_names.append(request.name)
        request.name = request.slot + (request.name // GENERATIONS + 1) % GENERATIONS * GENERATIONS
        self.note_name(request.name)

    def end(self, request: Request, reason: int) -> None:
        """Move a request to the record."""
        self.old_names.append(request.name)
        self.flying.remove(request)
        self.done.append((request.id, request.worker, reason, request.losses, len(request.answer)))
        self.untaken.append((request.id, request.answer))

    @invariant()
    def check_answers(self) -> None:
        """Every request in flight has its own tokens at its address, and nothing else counts."""
        slots = slots_of(self.flying)
        counts, tokens = self.table.answers(slots)
        assert [len(request.answer) for request in self.flying] == counts.tolist()
        assert [token for request in self.flying for token in request.answer] == tokens.tolist()
        ids, addresses, reported_counts = self.table.reportable(slots.tolist())
        assert counts.tolist() == reported_counts
        assert [request.id for request in self.flying] == ids
        for request, address in zip(self.flying, addresses, strict=True):
            raw = ctypes.string_at(address, 4 * len(request.answer))
            assert np.array(request.answer, "<i4").tobytes() == raw
        assert self.num_tokens == self.table.num_tokens

    @invariant()
    def check_requests(self) -> None:
        """Names, workers, losses and what is still to prefill are the model's."""
        slots = slots_of(self.flying)
        assert [request.name for request in self.flying] == self.table.names(slots).tolist()
        rows = self.table.rows(slots)[["worker", "losses", "stalled_losses", "prefill_len", "prompt_len"]]
        assert [
            (r.worker, r.losses, r.stalled_losses, r.prefill_len, r.prompt_len) for r in self.flying
        ] == rows.tolist()
        assert sorted(slots.tolist()) == self.table.in_flight().tolist()
        for worker in range(NUM_WORKERS):
            held = sorted(request.slot for request in self.flying if request.worker == worker)
            assert held == self.table.held_by(worker).tolist()

    @invariant()
    def check_record(self) -> None:
        """The record holds exactly what has finished, in order; the rest is running."""
        names = ["sample", "worker", "reason", "losses", "num_tokens"]
        assert self.done == self.table.done[names].tolist()
        assert (len(self.flying), len(self.done)) == (self.table.num_in_flight, self.table.num_done)
        assert len(self.untaken) == self.table.num_untaken


TestTableLife = TableLife.TestCase
TestTableLife.settings = settings(max_examples=150, stateful_step_count=40)
