"""The way of requests over links without a socket: who gets what when, and what LoadGen is told."""

import asyncio
import ctypes
import time
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

import coordinator.scheduling.scheduler
from coordinator.scheduling.scheduler import Scheduler, Task
from protos.columns import FrameError
from sut.sut import Reports
from tests.coordinator.scheduling.links import LENGTH, STOP, STOP_ID, FakeLink, SentRequests, dataset, frame

BUDGET = 6
NUM_SAMPLES = 100
# Sample i's prompt: itself, and one more token for each third sample, so that lengths differ.
PROMPTS = [[i] + [7] * (i % 3) for i in range(NUM_SAMPLES)]


class RecordedReports:
    """The reports that LoadGen would get, read from the addresses that it would read."""

    def __init__(self, reports_first_tokens: bool) -> None:
        self.reports_first_tokens = reports_first_tokens
        self.firsts: list[tuple[int, int]] = []
        """LoadGen's id and first token."""
        self.answers: list[tuple[int, list[int]]] = []
        """LoadGen's id and all tokens."""

    def first_tokens(self, ids: list[int], addresses: list[int]) -> tuple[int, int]:
        """Take first tokens."""
        called_ns = time.monotonic_ns()
        self.firsts += [(id_, self.read(at, 1)[0]) for id_, at in zip(ids, addresses, strict=True)]
        return called_ns, time.monotonic_ns()

    def complete(self, ids: list[int], addresses: list[int], counts: list[int]) -> tuple[int, int]:
        """Take finished answers."""
        called_ns = time.monotonic_ns()
        rows = zip(ids, addresses, counts, strict=True)
        self.answers += [(id_, self.read(at, count)) for id_, at, count in rows]
        return called_ns, time.monotonic_ns()

    def read(self, address: int, count: int) -> list[int]:
        """Read tokens."""
        return np.frombuffer(ctypes.string_at(address, 4 * count), "<i4").tolist()


class ImmediateLoop:
    """An event loop that runs a callback at once."""

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Run it."""
        callback()


class Fleet:
    """A scheduler over a few links; LoadGen's id of sample i is 1000 + i."""

    def __init__(self, server: bool, *max_num_seqs: int, max_losses: int = 3, num_admitted: int = 9) -> None:
        """Admit the first `num_admitted` workers."""
        self.reports = RecordedReports(server)
        self.links = [FakeLink(index, num) for index, num in enumerate(max_num_seqs)]
        self.failures: list[str] = []
        self.kept: list[tuple[list[int], list[int], list[int]]] = []
        task = Task(dataset(*PROMPTS), cast(Reports, self.reports), BUDGET, max_losses, keep=self._keep)
        loop = cast(asyncio.AbstractEventLoop, ImmediateLoop())
        self.scheduler = Scheduler(task, self.links, self.failures.append, loop)
        self.table, self.loads = self.scheduler.table, self.scheduler.loads
        self.admitted: set[int] = set()
        for index in range(min(num_admitted, len(self.links))):
            self._admit(index)

    def issue(self, *samples: int) -> None:
        """Issue one query; what may be sent is sent."""
        self.scheduler.issue([1000 + sample for sample in samples], list(samples))

    def outstanding(self) -> list[int]:
        """Count what each worker has by the table; the kept counts must be the same."""
        held = [len(self.table.held_by(link.index)) for link in self.links]
        assert held == self.scheduler.outstanding
        assert [
            (load.waiting_prefill_tokens, load.outstanding / load.speed, load.last_prompt_ns)
            for load in self.loads
        ] == [load.rank for load in self.loads]
        return held

    def lose(self, index: int, reason: str = "it broke") -> None:
        """Lose a worker as the transport does."""
        self.admitted.discard(index)
        self.scheduler.lose(index, reason)

    def readmit(self, index: int) -> SentRequests:
        """Take a worker back on a new stream."""
        sent = self.links[index].open_stream()
        self._admit(index)
        return sent

    def deliver(self, index: int, rows: dict[int, list[int]], ends: dict[int, int] | None = None) -> None:
        """Deliver tokens of a worker's requests, by their names."""
        self.scheduler.deliver(index, frame(list(rows.items()), ends))

    def finish(self, index: int, num: int) -> None:
        """End the oldest requests of a worker with an answer of one token."""
        names = self.table.names(self.table.held_by(index)[:num]).tolist()
        self.deliver(index, {name: [STOP_ID] for name in names}, dict.fromkeys(range(num), STOP))

    def _admit(self, index: int) -> None:
        self.admitted.add(index)
        self.scheduler.admit(index)

    def _keep(self, *columns: Any) -> None:
        samples, counts, tokens = (column.tolist() for column in columns)
        self.kept.append((samples, counts, tokens))


def test_offline_no_worker_has_more_than_its_window() -> None:
    """Slots and an eighth of them: 9, 2 and 18 of 80 requests, as they came; a loss gives nobody more."""
    fleet = Fleet(False, 8, 1, 16)
    fleet.issue(*range(80))
    first = [prompt[0] for link in fleet.links for prompt in link.sent.prompts]
    assert list(range(29)) == sorted(first)
    assert ([9, 2, 18], 80 - 29) == (fleet.outstanding(), len(fleet.scheduler.backlog))
    fleet.finish(2, 5)
    assert ([9, 2, 18], 80 - 34) == (fleet.outstanding(), len(fleet.scheduler.backlog))
    fleet.lose(0)
    assert ([0, 2, 18], 9) == (fleet.outstanding(), len(fleet.scheduler.failover))
    fleet.finish(1, 2)
    assert ([0, 2, 18], 7) == (fleet.outstanding(), len(fleet.scheduler.failover))
    fleet.readmit(0)
    assert ([9, 2, 18], 0) == (fleet.outstanding(), len(fleet.scheduler.failover))
    assert 80 - 34 - 2 == len(fleet.scheduler.backlog)


@pytest.mark.parametrize("server", [False, True])
def test_requests_that_lost_their_worker_go_first(server: bool) -> None:
    """What has waited for a worker longest, and may have tokens, goes out before what never had one."""
    fleet = Fleet(server, 8)
    fleet.issue(0, 3)
    (a, b) = fleet.links[0].sent.names
    fleet.deliver(0, {a: [5, 6]})
    fleet.lose(0)
    fleet.issue(6, 9)
    assert 2 == len(fleet.scheduler.backlog) == len(fleet.scheduler.failover)
    sent = fleet.readmit(0)
    assert [[0, 5, 6], [3], [6], [9]] == sent.prompts
    assert ([4, 6, 6, 6], [2, 0, 0, 0]) == (sent.budgets, sent.produced)
    assert {a, b}.isdisjoint(sent.names)


def test_server_gives_all_to_those_that_live() -> None:
    """Every request goes out at once, window or not, and none to a worker that is gone."""
    fleet = Fleet(True, 1, 1, 1)
    fleet.lose(1)
    fleet.issue(*range(0, 90, 3))  # prompts of one token each
    assert ([15, 0, 15], 0) == (fleet.outstanding(), len(fleet.scheduler.backlog))
    fleet.lose(0)
    assert ([0, 0, 30], 0) == (fleet.outstanding(), len(fleet.scheduler.failover))


@pytest.mark.parametrize("server", [False, True])
def test_without_a_worker_everything_waits(server: bool) -> None:
    """No worker: old and new requests wait, and the next dispatch with one live sends them all."""
    fleet = Fleet(server, 32, 32)
    fleet.issue(0, 3, 6)
    fleet.lose(0)
    fleet.lose(1)
    fleet.issue(9, 12)
    fleet.scheduler.dispatch()
    assert [0, 0] == fleet.outstanding()
    assert (3, 2) == (len(fleet.scheduler.failover), len(fleet.scheduler.backlog))
    sent = fleet.readmit(1)
    assert [0, 5] == fleet.outstanding()
    assert [[0], [3], [6], [9], [12]] == sorted(sent.prompts)
    assert [] == fleet.failures


@pytest.mark.parametrize("server", [False, True])
def test_a_request_that_loses_too_many_workers_fails_the_run(server: bool) -> None:
    """At --max-worker-losses the run fails; its words name the sample, the bound, the worker, its reason."""
    fleet = Fleet(server, 8, max_losses=2)
    fleet.issue(42)
    fleet.lose(0)
    assert [] == fleet.failures
    fleet.readmit(0)
    fleet.issue(43)
    fleet.lose(0, "silent for 10 s")
    assert [
        "sample 42 was taken from 2 workers in a row without a new token (--max-worker-losses), "
        "the last worker-0:1: silent for 10 s"
    ] == fleet.failures


@pytest.mark.parametrize("server", [False, True])
def test_a_loss_after_new_tokens_does_not_count_against_a_request(server: bool) -> None:
    """With 2 losses allowed a request survives a loss per token; two in a row without a token end the run."""
    fleet = Fleet(server, 8, max_losses=2)
    fleet.issue(42)
    for token in (1, 2, 3):
        (name,) = fleet.table.names(fleet.table.held_by(0)).tolist()
        fleet.deliver(0, {name: [token]})
        fleet.lose(0)
        fleet.readmit(0)
    # One loss without a token, then progress again: the count starts anew.
    fleet.lose(0)
    sent = fleet.readmit(0)
    assert [[42, 1, 2, 3]] == sent.prompts
    fleet.deliver(0, {sent.names[0]: [4]})
    fleet.lose(0)
    fleet.readmit(0)
    fleet.lose(0)
    assert [] == fleet.failures
    fleet.readmit(0)
    fleet.lose(0, "it broke again")
    (failure,) = fleet.failures
    assert failure.startswith("sample 42 was taken from 2 workers in a row without a new token")
    # Three with a token, one without, one with, two without.
    assert [7] == fleet.table.rows(fleet.table.in_flight())["losses"].tolist()


@pytest.mark.parametrize("server", [False, True])
def test_a_deadly_request_goes_to_no_other_worker(server: bool) -> None:
    """The run that fails for it sends nothing more, not even to a worker that is well."""
    fleet = Fleet(server, 8, 8, max_losses=1, num_admitted=1)
    fleet.issue(42)
    fleet.readmit(1)
    fleet.lose(0)
    assert 1 == len(fleet.failures)
    assert [] == fleet.links[1].sent.names


@pytest.mark.parametrize("server", [False, True])
def test_the_last_chance_of_a_request_is_another_worker(server: bool) -> None:
    """With 3 losses allowed a worker that is lost twice gets its requests back once; then another does."""
    fleet = Fleet(server, 8, 8, max_losses=3, num_admitted=1)
    fleet.issue(42)
    fleet.lose(0)
    first = fleet.readmit(0)
    fleet.lose(0)
    fleet.readmit(1)
    second = fleet.readmit(0)
    assert (1, [], 1) == (len(first.names), second.names, len(fleet.links[1].sent.names))
    assert [] == fleet.failures


def test_of_many_deadly_requests_some_are_named() -> None:
    """A line for a person names ten samples and counts the others."""
    fleet = Fleet(True, 8, max_losses=1)
    fleet.issue(*range(0, 36, 3))
    fleet.lose(0)
    (reason,) = fleet.failures
    assert reason.startswith(
        "sample 0, 3, 6, 9, 12, 15, 18, 21, 24, 27 and 2 more was taken from 1 workers in a row"
    )


@pytest.mark.parametrize("server", [False, True])
def test_a_request_whose_budget_is_used_up_completes_with_its_worker(server: bool) -> None:
    """All its tokens came and only its end did not: it completes by length, and does not count as deadly."""
    fleet = Fleet(server, 8, max_losses=1)
    fleet.issue(0)
    (name,) = fleet.links[0].sent.names
    fleet.deliver(0, {name: [1, 2, 3, 4, 5, 6]})
    assert [] == fleet.reports.answers
    fleet.lose(0)
    assert [(1000, [1, 2, 3, 4, 5, 6])] == fleet.reports.answers
    assert ([], 0, 0) == (fleet.failures, len(fleet.scheduler.failover), fleet.table.num_in_flight)
    assert [(0, LENGTH, 1, 6)] == fleet.table.done[["sample", "reason", "losses", "num_tokens"]].tolist()
    fleet.scheduler.keep_answers()
    assert [([0], [6], [1, 2, 3, 4, 5, 6])] == fleet.kept


def test_finished_answers_are_kept_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the third of three that may wait all are handed over, each once, in order of completion."""
    monkeypatch.setattr(coordinator.scheduling.scheduler, "MAX_UNTAKEN", 3)
    fleet = Fleet(True, 8)
    fleet.issue(0, 3, 6, 9)
    names = fleet.links[0].sent.names
    fleet.deliver(0, {names[2]: [STOP_ID], names[0]: [6, STOP_ID]}, {0: STOP, 1: STOP})
    assert [] == fleet.kept
    fleet.deliver(0, {names[3]: [STOP_ID]}, {0: STOP})
    whole = ([6, 0, 9], [1, 2, 1], [STOP_ID, 6, STOP_ID, STOP_ID])
    assert [whole] == fleet.kept
    fleet.scheduler.keep_answers()
    assert [whole] == fleet.kept


@pytest.mark.parametrize("server", [False, True])
def test_a_continued_answer_reaches_loadgen_whole_and_once(server: bool) -> None:
    """The first token is told once, when it comes; the answer once, with the tokens of both workers."""
    fleet = Fleet(server, 8, 8)
    fleet.issue(3)
    (first,) = [link.index for link in fleet.links if link.sent.names]
    (name,) = fleet.links[first].sent.names
    fleet.deliver(first, {name: [5, 6]})
    assert ([(1003, 5)] if server else []) == fleet.reports.firsts
    fleet.lose(first)
    (name,) = fleet.links[1 - first].sent.names
    fleet.deliver(1 - first, {name: [STOP_ID]}, {0: STOP})
    assert ([(1003, 5)] if server else []) == fleet.reports.firsts
    assert [(1003, [5, 6, STOP_ID])] == fleet.reports.answers
    fleet.scheduler.keep_answers()
    assert [([3], [3], [5, 6, STOP_ID])] == fleet.kept


def test_a_moved_request_is_stopped_and_its_late_tokens_are_dropped() -> None:
    """The old worker is told to stop; what it still brings, an end too, is counted and reaches nobody."""
    fleet = Fleet(True, 8, 8, num_admitted=1)
    fleet.issue(0)
    old, load = fleet.links[0], fleet.loads[0]
    (a,) = old.sent.names
    fleet.deliver(0, {a: [1]})
    # It comes back to the same worker, the only one, under a new name.
    fleet.scheduler.move(0, fleet.table.held_by(0), "too slow")
    assert ([a], {a}) == (old.sent.cancelled, load.moved)
    new = fleet.readmit(1)
    fleet.issue(3)
    (b,) = new.names
    _, again = old.sent.names
    assert ([[0], [0, 1]], [6, 5]) == (old.sent.prompts, old.sent.budgets)
    fleet.deliver(0, {a: [8, 8], again: [2]}, {0: STOP})
    fleet.deliver(0, {a: []})
    assert (2, [], 1) == (load.num_dropped_tokens, fleet.reports.answers, load.outstanding)
    fleet.deliver(0, {again: [STOP_ID]}, {0: STOP})
    assert [(1000, [1, 2, STOP_ID])] == fleet.reports.answers
    assert [0, 1] == [len(fleet.table.held_by(index)) for index in range(2)]
    with pytest.raises(FrameError, match="does not hold"):
        fleet.deliver(1, {a: [9]})
    assert b == fleet.table.names(fleet.table.held_by(1))[0]


def test_prefill_that_waits_is_that_of_requests_without_an_answer() -> None:
    """Prompt tokens a worker got and has not answered: all of a continued prompt; none after loss or move."""
    fleet = Fleet(True, 8, 8, num_admitted=1)
    fleet.issue(0, 1, 2)  # prompts of 1, 2 and 3 tokens
    _, b, c = fleet.links[0].sent.names
    assert 6 == fleet.loads[0].waiting_prefill_tokens
    fleet.deliver(0, {b: [1, 1], c: []})
    assert 4 == fleet.loads[0].waiting_prefill_tokens
    fleet.deliver(0, {c: []}, {0: STOP})
    assert 1 == fleet.loads[0].waiting_prefill_tokens
    fleet.readmit(1)
    fleet.lose(0)
    assert [0, 1 + (2 + 2)] == [load.waiting_prefill_tokens for load in fleet.loads]
    second, third = fleet.links[1].sent.names
    fleet.deliver(1, {third: [2]})
    assert 1 == fleet.loads[1].waiting_prefill_tokens
    fleet.scheduler.move(1, fleet.table.held_by(1), "too slow")
    assert [second, third] == fleet.links[1].sent.cancelled
    assert 1 + (2 + 3) == fleet.loads[1].waiting_prefill_tokens  # there is no other worker
