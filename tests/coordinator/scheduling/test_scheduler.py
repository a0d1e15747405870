"""The way of requests over links without a socket: who gets what when, and what LoadGen is told."""

import ctypes
from typing import Any, cast

import numpy as np
import pytest

import coordinator.scheduling.scheduler
from coordinator.scheduling.request_table import RequestTable
from coordinator.scheduling.scheduler import Scheduler, Task
from protos.columns import FrameError
from sut.sut import SUT
from tests.coordinator.scheduling.links import LENGTH, STOP, FakeLink, dataset, frame

BUDGET = 6
NUM_SAMPLES = 100
# Sample i's prompt: itself, and one more token for each third sample, so that lengths differ.
PROMPTS = [[i] + [7] * (i % 3) for i in range(NUM_SAMPLES)]


class Reports:
    """Where the SUT would be: what LoadGen would be told, read from where it would read."""

    def __init__(self, reports_first_tokens: bool) -> None:
        self.reports_first_tokens = reports_first_tokens
        self.firsts: list[tuple[int, int]] = []
        """LoadGen's id and first token."""
        self.answers: list[tuple[int, list[int]]] = []
        """LoadGen's id and all tokens."""

    def first_tokens(self, ids: list[int], addresses: list[int]) -> None:
        """Take first tokens."""
        self.firsts += [(id_, self.read(at, 1)[0]) for id_, at in zip(ids, addresses, strict=True)]

    def complete(self, ids: list[int], addresses: list[int], counts: list[int]) -> None:
        """Take finished answers."""
        rows = zip(ids, addresses, counts, strict=True)
        self.answers += [(id_, self.read(at, count)) for id_, at, count in rows]

    def read(self, address: int, count: int) -> list[int]:
        """Read tokens."""
        return np.frombuffer(ctypes.string_at(address, 4 * count), "<i4").tolist()


class Ways:
    """A flow over a few links, live from the start; LoadGen's id of sample i is 1000 + i."""

    def __init__(self, server: bool, *max_num_seqs: int, max_losses: int = 3) -> None:
        self.sut = Reports(server)
        self.links = [FakeLink(index, num) for index, num in enumerate(max_num_seqs)]
        self.ledger = RequestTable(BUDGET, num_slots=2)
        self.failures: list[str] = []
        self.kept: list[tuple[list[int], list[int], list[int]]] = []
        task = Task(dataset(*PROMPTS), cast(SUT, self.sut), BUDGET, max_losses, keep=self._keep)
        self.flow = Scheduler(task, self.ledger, list(self.links), self.failures.append)

    def issue(self, *samples: int) -> None:
        """Take one query and send what may go out."""
        self.flow.take([1000 + sample for sample in samples], list(samples), 5)
        self.flow.dispatch()

    def outstanding(self) -> list[int]:
        """Count what each link's worker has, as the ledger knows it; the streams must count the same."""
        held = [len(self.ledger.held_by(link.index)) for link in self.links]
        assert held == [link.outstanding for link in self.links]
        return held

    def lose(self, index: int, reason: str = "it broke") -> None:
        """Lose a worker as the fleet does."""
        self.links[index].live = False
        self.flow.lose(self.links[index], reason)

    def bring(self, index: int, rows: dict[int, list[int]], ends: dict[int, int] | None = None) -> None:
        """Deliver tokens of a worker's requests, by their names."""
        self.flow.deliver(self.links[index], frame(list(rows.items()), ends))

    def finish(self, index: int, num: int) -> None:
        """End the oldest requests of a worker with an answer of one token."""
        names = self.ledger.names(self.ledger.held_by(index)[:num]).tolist()
        self.bring(index, {name: [9] for name in names}, dict.fromkeys(range(num), STOP))

    def _keep(self, *columns: Any) -> None:
        samples, counts, tokens = (column.tolist() for column in columns)
        self.kept.append((samples, counts, tokens))


def test_offline_no_worker_has_more_than_its_window() -> None:
    """Slots and an eighth of them: 9, 2 and 18 of 80 requests, as they came; a loss gives nobody more."""
    ways = Ways(False, 8, 1, 16)
    ways.issue(*range(80))
    first = [prompt[0] for link in ways.links for prompt in link.sent.prompts]
    assert list(range(29)) == sorted(first)
    assert ([9, 2, 18], 80 - 29) == (ways.outstanding(), len(ways.flow.backlog))
    ways.finish(2, 5)
    assert ([9, 2, 18], 80 - 34) == (ways.outstanding(), len(ways.flow.backlog))
    ways.lose(0)
    assert ([0, 2, 18], 9) == (ways.outstanding(), len(ways.flow.continuations))
    ways.finish(1, 2)
    assert ([0, 2, 18], 7) == (ways.outstanding(), len(ways.flow.continuations))
    ways.links[0].come_back()
    ways.flow.dispatch()
    assert ([9, 2, 18], 0) == (ways.outstanding(), len(ways.flow.continuations))
    assert 80 - 34 - 2 == len(ways.flow.backlog)


@pytest.mark.parametrize("server", [False, True])
def test_requests_that_lost_their_worker_go_first(server: bool) -> None:
    """What has waited for a worker longest, and may have tokens, goes out before what never had one."""
    ways = Ways(server, 8)
    ways.issue(0, 3)
    (a, b) = ways.links[0].sent.names
    ways.bring(0, {a: [5, 6]})
    ways.lose(0)
    ways.issue(6, 9)
    assert 2 == len(ways.flow.backlog) == len(ways.flow.continuations)
    sent = ways.links[0].come_back()
    ways.flow.dispatch()
    assert [[0, 5, 6], [3], [6], [9]] == sent.prompts
    assert ([4, 6, 6, 6], [2, 0, 0, 0]) == (sent.budgets, sent.produced)
    assert {a, b}.isdisjoint(sent.names)


def test_server_gives_all_to_those_that_live() -> None:
    """Every request goes out at once, window or not, and none to a worker that is gone."""
    ways = Ways(True, 1, 1, 1)
    ways.lose(1)
    ways.issue(*range(0, 90, 3))  # prompts of one token each
    assert ([15, 0, 15], 0) == (ways.outstanding(), len(ways.flow.backlog))
    ways.lose(0)
    assert ([0, 0, 30], 0) == (ways.outstanding(), len(ways.flow.continuations))


@pytest.mark.parametrize("server", [False, True])
def test_without_a_worker_everything_waits(server: bool) -> None:
    """No worker: old and new requests wait, and the next dispatch with one live sends them all."""
    ways = Ways(server, 32, 32)
    ways.issue(0, 3, 6)
    ways.lose(0)
    ways.lose(1)
    ways.issue(9, 12)
    ways.flow.dispatch()
    assert [0, 0] == ways.outstanding()
    assert (3, 2) == (len(ways.flow.continuations), len(ways.flow.backlog))
    sent = ways.links[1].come_back()
    ways.flow.dispatch()
    assert [0, 5] == ways.outstanding()
    assert [[0], [3], [6], [9], [12]] == sorted(sent.prompts)
    assert [] == ways.failures


@pytest.mark.parametrize("server", [False, True])
def test_a_request_that_loses_too_many_workers_fails_the_run(server: bool) -> None:
    """At --max-worker-losses the run fails; its words name the sample, the bound, the worker, its reason."""
    ways = Ways(server, 8, max_losses=2)
    ways.issue(42)
    ways.lose(0)
    assert [] == ways.failures
    ways.links[0].come_back()
    ways.issue(43)
    ways.lose(0, "silent for 10 s")
    assert [
        "sample 42 was taken from 2 workers in a row (--max-worker-losses), "
        "the last worker-0:1: silent for 10 s"
    ] == ways.failures


@pytest.mark.parametrize("server", [False, True])
def test_a_deadly_request_goes_to_no_other_worker(server: bool) -> None:
    """The run that fails for it sends nothing more, not even to a worker that is well."""
    ways = Ways(server, 8, 8, max_losses=1)
    ways.links[1].live = False
    ways.issue(42)
    ways.links[1].live = True
    ways.lose(0)
    assert 1 == len(ways.failures)
    assert [] == ways.links[1].sent.names


@pytest.mark.parametrize("server", [False, True])
def test_the_last_chance_of_a_request_is_another_worker(server: bool) -> None:
    """With 3 losses allowed a worker that is lost twice gets its requests back once; then another does."""
    ways = Ways(server, 8, 8, max_losses=3)
    ways.links[1].live = False
    ways.issue(42)
    ways.lose(0)
    first = ways.links[0].come_back()
    ways.flow.dispatch()
    ways.lose(0)
    second = ways.links[0].come_back()
    ways.links[1].live = True
    ways.flow.dispatch()
    assert (1, [], 1) == (len(first.names), second.names, len(ways.links[1].sent.names))
    assert [] == ways.failures


def test_of_many_deadly_requests_some_are_named() -> None:
    """A line for a person names ten samples and counts the others."""
    ways = Ways(True, 8, max_losses=1)
    ways.issue(*range(0, 36, 3))
    ways.lose(0)
    (reason,) = ways.failures
    assert reason.startswith(
        "sample 0, 3, 6, 9, 12, 15, 18, 21, 24, 27 and 2 more was taken from 1 workers in a row"
    )


@pytest.mark.parametrize("server", [False, True])
def test_a_request_whose_budget_is_used_up_completes_with_its_worker(server: bool) -> None:
    """All its tokens came and only its end did not: it completes by length, and does not count as deadly."""
    ways = Ways(server, 8, max_losses=1)
    ways.issue(0)
    (name,) = ways.links[0].sent.names
    ways.bring(0, {name: [1, 2, 3, 4, 5, 6]})
    assert [] == ways.sut.answers
    ways.lose(0)
    assert [(1000, [1, 2, 3, 4, 5, 6])] == ways.sut.answers
    assert ([], 0, 0) == (ways.failures, len(ways.flow.continuations), ways.ledger.num_running)
    assert [(0, LENGTH, 1, 6)] == ways.ledger.done[["sample", "reason", "losses", "num_tokens"]].tolist()
    ways.flow.keep_answers()
    assert [([0], [6], [1, 2, 3, 4, 5, 6])] == ways.kept


def test_finished_answers_are_kept_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the third of three that may wait all are handed over, each once, in order of completion."""
    monkeypatch.setattr(coordinator.scheduling.scheduler, "MAX_UNTAKEN", 3)
    ways = Ways(True, 8)
    ways.issue(0, 3, 6, 9)
    names = ways.links[0].sent.names
    ways.bring(0, {names[2]: [5], names[0]: [6, 7]}, {0: STOP, 1: STOP})
    assert [] == ways.kept
    ways.bring(0, {names[3]: [8]}, {0: STOP})
    whole = ([6, 0, 9], [1, 2, 1], [5, 6, 7, 8])
    assert [whole] == ways.kept
    ways.flow.keep_answers()
    assert [whole] == ways.kept


@pytest.mark.parametrize("server", [False, True])
def test_a_continued_answer_reaches_loadgen_whole_and_once(server: bool) -> None:
    """The first token is told once, when it comes; the answer once, with the tokens of both workers."""
    ways = Ways(server, 8, 8)
    ways.issue(3)
    (first,) = [link.index for link in ways.links if link.sent.names]
    (name,) = ways.links[first].sent.names
    ways.bring(first, {name: [5, 6]})
    assert ([(1003, 5)] if server else []) == ways.sut.firsts
    ways.lose(first)
    (name,) = ways.links[1 - first].sent.names
    ways.bring(1 - first, {name: [7]}, {0: STOP})
    assert ([(1003, 5)] if server else []) == ways.sut.firsts
    assert [(1003, [5, 6, 7])] == ways.sut.answers
    ways.flow.keep_answers()
    assert [([3], [3], [5, 6, 7])] == ways.kept


def test_a_moved_request_is_stopped_and_its_late_tokens_are_dropped() -> None:
    """The old worker is told to stop; what it still brings, an end too, is counted and reaches nobody."""
    ways = Ways(True, 8, 8)
    ways.issue(0)
    ways.issue(3)
    old, new = ways.links
    (a,), (b,) = old.sent.names, new.sent.names
    ways.bring(0, {a: [1]})
    new.live = False  # so that it comes back to the same worker, under a new name
    ways.flow.move(old, ways.ledger.held_by(0), "too slow")
    assert ([a], {a}) == (old.sent.stopped, old.moved)
    _, again = old.sent.names
    assert ([[0], [0, 1]], [6, 5]) == (old.sent.prompts, old.sent.budgets)
    ways.bring(0, {a: [8, 8], again: [2]}, {0: STOP})
    ways.bring(0, {a: []})
    assert (2, [], 1) == (old.num_dropped_tokens, ways.sut.answers, old.outstanding)
    ways.bring(0, {again: [3]}, {0: STOP})
    assert [(1000, [1, 2, 3])] == ways.sut.answers
    assert [0, 1] == [len(ways.ledger.held_by(index)) for index in range(2)]
    with pytest.raises(FrameError, match="does not hold"):
        ways.bring(1, {a: [9]})
    assert b == ways.ledger.names(ways.ledger.held_by(1))[0]


def test_prefill_that_waits_is_that_of_requests_without_an_answer() -> None:
    """Prompt tokens a worker got and has not answered: all of a continued prompt; none after loss or move."""
    ways = Ways(True, 8, 8)
    ways.links[1].live = False
    ways.issue(0, 1, 2)  # prompts of 1, 2 and 3 tokens
    _, b, c = ways.links[0].sent.names
    assert 6 == ways.links[0].waiting_prefill_tokens
    ways.bring(0, {b: [1, 1], c: []})
    assert 4 == ways.links[0].waiting_prefill_tokens
    ways.bring(0, {c: []}, {0: STOP})
    assert 1 == ways.links[0].waiting_prefill_tokens
    ways.links[1].live = True
    ways.lose(0)
    assert [0, 1 + (2 + 2)] == [link.waiting_prefill_tokens for link in ways.links]
    second, third = ways.links[1].sent.names
    ways.bring(1, {third: [2]})
    assert 1 == ways.links[1].waiting_prefill_tokens
    ways.flow.move(ways.links[1], ways.ledger.held_by(1), "too slow")
    assert [second, third] == ways.links[1].sent.stopped
    assert 1 + (2 + 3) == ways.links[1].waiting_prefill_tokens  # there is no other worker
