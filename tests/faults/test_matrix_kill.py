"""A worker is killed (-9) or stopped (SIGSTOP) in a run: the others take over, and every token is exact."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import faulty_worker, runs
from tests.faults.crew import Member, addresses_of, check_free, crew, wait_until
from tests.faults.moments import at_last, at_start, in_decode, in_prefill, seats
from tests.faults.table import Table

STEP = ("--step-ms", "5", "--max-num-seqs")
LAST = [[300, 7, 7, 0]] + [[20 + i, 7, 1000 * i] for i in range(1, 40)]
"""One long answer that ends last on any worker."""


@pytest.mark.long
@pytest.mark.parametrize("mode", runs.MODES)
@pytest.mark.parametrize("moment", [at_start, in_prefill])
def test_killed_before_its_first_token(
    tmp_path: Path, table: Table, mode: str, moment: Callable[[list[Member]], Member]
) -> None:
    """The requests of a worker killed before its first token start again elsewhere; no token is kept."""
    flags = ("--first-step-ms", "2000", *STEP, seats(mode))
    with crew(tmp_path, 2, *flags, program=faulty_worker.main) as members:
        with runs.started(tmp_path, mode, addresses_of(members), runs.make_prompts()) as run:
            victim = moment(members)
            injected_ns = victim.kill()
            found = runs.check_valid(run)
        table.add(f"kill -9 {moment.__name__}", run, 0, injected_ns)
        [loss] = found["summary"]["losses"]
        assert (victim.address, 0) == (loss["address"], loss["kept_tokens"])
        assert loss["requests"] == len(found["summary"]["continuations"])
        check_free(members[1:])


@pytest.mark.parametrize("mode", runs.modes("offline", "server"))
def test_killed_in_decode(tmp_path: Path, table: Table, mode: str) -> None:
    """Partial answers of a killed worker continue elsewhere; the tokens already received are kept."""
    prompts = runs.make_prompts(60)
    with crew(tmp_path, 2, *STEP, seats(mode)) as members:
        with runs.started(tmp_path, mode, addresses_of(members), prompts) as run:
            injected_ns = in_decode(members).kill()
            found = runs.check_valid(run)
        table.add("kill -9 in decode", run, 0, injected_ns)
        [loss] = found["summary"]["losses"]
        continued = found["summary"]["continuations"]
        assert members[0].address == loss["address"]
        assert loss["requests"] == len(continued) > 0
        assert loss["kept_tokens"] == sum(one["kept_tokens"] for one in continued) > 0
        assert {members[1].address} == {one["to_worker"] for one in continued}
        assert [1, 1] == [worker["streams"] for worker in found["summary"]["workers"]]
        # How many steps the killed engine took nobody knows.
        killed, other = (worker["engine_steps"] for worker in found["summary"]["workers"])
        assert killed is None
        assert other > 0
        check_free(members[1:])


@pytest.mark.long
@pytest.mark.parametrize("mode", runs.MODES)
def test_killed_while_it_holds_prompts(tmp_path: Path, table: Table, mode: str) -> None:
    """Prompts that wait on the killed worker for their group are answered by the other, each once."""
    groups = ("--prefill-group-tokens", "100", "--prefill-hold-ms", "500")
    with crew(tmp_path, 2, *STEP, "64", *groups) as members:
        with runs.started(tmp_path, mode, addresses_of(members), runs.make_prompts(180)) as run:
            wait_until(lambda: members[0].used and holds_prompts(members[0]), "prompts held")
            injected_ns = members[0].kill()
            found = runs.check_valid(run)
        table.add("kill -9 while it holds prompts", run, 0, injected_ns)
        [loss] = found["summary"]["losses"]
        continued = found["summary"]["continuations"]
        assert loss["requests"] == len(continued) > 0
        assert 0 in {one["kept_tokens"] for one in continued}
        check_free(members[1:])


def holds_prompts(member: Member) -> bool:
    """Whether a worker has requests that do not run."""
    load = member.load()
    return load is not None and load.waiting > 0


@pytest.mark.long
@pytest.mark.parametrize("mode", runs.MODES)
def test_killed_at_the_last_sample(tmp_path: Path, table: Table, mode: str) -> None:
    """When the worker of the run's last request is killed, the other one finishes the answer."""
    with crew(tmp_path, 2, "--step-ms", "10", "--max-num-seqs", seats(mode)) as members:
        with runs.started(tmp_path, mode, addresses_of(members), LAST) as run:
            victim = at_last(members)
            injected_ns = victim.kill()
            found = runs.check_valid(run)
        table.add("kill -9 at the last sample", run, 0, injected_ns)
        [one] = found["summary"]["continuations"]
        assert (0, victim.address) == (one["sample"], one["from_worker"])
        assert 0 < one["kept_tokens"] < 300


@pytest.mark.long
@pytest.mark.parametrize("mode", runs.MODES)
def test_stopped_for_less_than_the_limit(tmp_path: Path, table: Table, mode: str) -> None:
    """A worker stopped for 1.5 s under a limit of 5 s is not lost."""
    with crew(tmp_path, 2, *STEP, seats(mode)) as members:
        flags = ("--worker-timeout-s", "5")
        with runs.started(tmp_path, mode, addresses_of(members), runs.make_prompts(), *flags) as run:
            in_decode(members).freeze()
            time.sleep(1.5)
            members[0].thaw()
            found = runs.check_valid(run)
        table.add("SIGSTOP for 1.5 s, limit 5 s", run, 0)
        assert [] == found["summary"]["losses"]


@pytest.mark.parametrize("mode", runs.modes("offline"))
def test_stopped_for_longer_than_the_limit(tmp_path: Path, table: Table, mode: str) -> None:
    """A worker stopped beyond the limit is lost; after SIGCONT it is used again in the same run."""
    # Offline 120 answers of 160 tokens: 8 s for the worker that is left, which has the other back in 4.
    prompts = runs.make_prompts(120)
    with crew(tmp_path, 2, *STEP, seats(mode, 12)) as members:
        flags = ("--worker-timeout-s", "2")
        with runs.started(tmp_path, mode, addresses_of(members), prompts, *flags, server_s=10) as run:
            injected_ns = in_decode(members).freeze()
            wait_until(lambda: run.says(f"{members[0].address} lost: silent for 2 s"), "lost")
            members[0].thaw()
            wait_until(lambda: run.says(f"{members[0].address} is back"), "back")
            wait_until(lambda: members[0].used, "used again")
            found = runs.check_valid(run)
        table.add("SIGSTOP beyond the limit of 2 s, then SIGCONT", run, 0, injected_ns)
        [loss] = found["summary"]["losses"]
        assert members[0].address == loss["address"]
        assert [2, 1] == [worker["streams"] for worker in found["summary"]["workers"]]
        check_free(members)
