"""Requests that kill workers and queries that an engine forgets: reported, then handled by policy."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.faults import faulty_worker, runs
from tests.faults.crew import Member, addresses_of, check_free, crew, wait_until
from tests.faults.faulty_worker import DIES, EXITS, FORGETS, FORGETS_AFTER
from tests.faults.moments import seats
from tests.faults.table import Table

pytestmark = pytest.mark.long
STEP = ("--step-ms", "5", "--max-num-seqs")
BAD = 7


def prompts_with(demand: int) -> list[list[int]]:
    """Make short prompts; row BAD demands a fault of the engine."""
    prompts = runs.make_prompts(40, shortest=20, longest=60)
    prompts[BAD][1] = demand
    return prompts


@pytest.mark.parametrize("mode", runs.MODES)
@pytest.mark.parametrize("demand", [EXITS, DIES])
def test_request_that_kills_its_workers(tmp_path: Path, table: Table, mode: str, demand: int) -> None:
    """A request that lost 2 workers in a row is not sent to a third: the run fails and names it."""
    with crew(tmp_path, 3, *STEP, seats(mode, 4), program=faulty_worker.main) as members:
        flags = ("--max-worker-losses", "2")
        with runs.started(tmp_path, mode, addresses_of(members), prompts_with(demand), *flags) as run:
            found = runs.check_failed(run, "--max-worker-losses")
        what = "process exit" if demand == EXITS else "engine die"
        table.add(f"a request that makes the {what}", run, 1)
        # Requests that were with it on both workers are named too.
        named = re.match(r"sample ([0-9, ]+) ", found["verdict"]["reason"])
        assert named and str(BAD) in named[1].split(", "), found["verdict"]["reason"]
        assert 2 == len(found["summary"]["losses"])
        wait_until(lambda: len(running(members)) == 1, "two workers gone")
        check_free(running(members))


def running(members: list[Member]) -> list[Member]:
    """List the workers whose process has not ended."""
    return [member for member in members if member.worker.process.poll() is None]


def overdue_in(found: Any) -> dict[str, Any]:
    """Return the overdue query of run.json; only the forgotten sample may be listed."""
    overdue = found["summary"]["overdue"]
    assert {BAD} == {query["sample"] for query in overdue}
    assert {FORGETS_AFTER} == {query["tokens"] for query in overdue}
    first: dict[str, Any] = overdue[0]
    return first


@pytest.mark.parametrize("mode", runs.MODES)
def test_forgotten_query_reported(tmp_path: Path, table: Table, mode: str) -> None:
    """report: an overdue query is listed; the worker is lost only when it stalls, and the answer is exact."""
    with crew(tmp_path, 2, *STEP, seats(mode), program=faulty_worker.main) as members:
        flags = ("--query-timeout-s", "2", "--on-overdue-query", "report", "--stall-timeout-s", "4")
        with runs.started(tmp_path, mode, addresses_of(members), prompts_with(FORGETS), *flags) as run:
            found = runs.check_valid(run)
        table.add("a forgotten query, --on-overdue-query report", run, 0)
        query = overdue_in(found)
        assert query["worker"] in addresses_of(members)
        assert any("no token for 4 s" in loss["reason"] for loss in found["summary"]["losses"])


@pytest.mark.parametrize("mode", runs.MODES)
def test_forgotten_query_continued(tmp_path: Path, table: Table, mode: str) -> None:
    """continue: an overdue query continues from its tokens; the worker that forgot it stays in the run."""
    with crew(tmp_path, 2, *STEP, seats(mode), program=faulty_worker.main) as members:
        flags = ("--query-timeout-s", "2", "--on-overdue-query", "continue")
        with runs.started(tmp_path, mode, addresses_of(members), prompts_with(FORGETS), *flags) as run:
            found = runs.check_valid(run)
        table.add("a forgotten query, --on-overdue-query continue", run, 0)
        overdue_in(found)
        assert {BAD} == {one["sample"] for one in found["summary"]["continuations"]}
        assert {FORGETS_AFTER} == {one["kept_tokens"] for one in found["summary"]["continuations"]}
        assert [1, 1] == [worker["streams"] for worker in found["summary"]["workers"]]
        # A query was taken from its worker, which was not lost.
        assert all(loss["is_move"] for loss in found["summary"]["losses"])
        (check,) = [check for check in found["verdict"]["checks"] if check["name"] == "continuation"]
        assert check["seen"].startswith("0 workers lost, ")


@pytest.mark.parametrize("mode", runs.MODES)
def test_forgotten_query_fails_the_run(tmp_path: Path, table: Table, mode: str) -> None:
    """fail: an overdue query ends the run, which names sample, worker and tokens so far."""
    with crew(tmp_path, 2, *STEP, seats(mode), program=faulty_worker.main) as members:
        flags = ("--query-timeout-s", "2", "--on-overdue-query", "fail")
        with runs.started(tmp_path, mode, addresses_of(members), prompts_with(FORGETS), *flags) as run:
            says = ("--query-timeout-s", f"sample {BAD} on 127.0.0.1:", f"{FORGETS_AFTER} tokens")
            found = runs.check_failed(run, *says)
        table.add("a forgotten query, --on-overdue-query fail", run, 1)
        overdue_in(found)
        check_free(members)
