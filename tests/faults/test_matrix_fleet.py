"""Fleet faults: workers that never become ready, are all lost, return, or return with other settings."""

from pathlib import Path

import pytest

from tests import fleet
from tests.faults import runs
from tests.faults.crew import Member, addresses_of, check_free, crew, wait_until
from tests.faults.moments import in_decode, seats
from tests.faults.table import Table

STEP = ("--step-ms", "5", "--max-num-seqs")
NEVER = ("--load-ms", "600000")


@pytest.mark.long
@pytest.mark.parametrize("mode", runs.MODES)
def test_worker_that_never_becomes_ready(tmp_path: Path, mode: str) -> None:
    """A worker that is not ready after --ready-timeout-s is named: exit code 2, one line, nothing written."""
    with crew(tmp_path, 1, *STEP, seats(mode)) as members:
        slow = Member(tmp_path / "slow.log", NEVER)
        try:
            addresses = [*addresses_of(members), slow.address]
            wait_until(lambda: fleet.health(slow.address) == "NOT_SERVING", "it listens")
            flags = ("--ready-timeout-s", "2")
            with runs.started(tmp_path, mode, addresses, runs.make_prompts(), *flags) as run:
                assert 2 == run.end()
        finally:
            slow.kill()
        expected = f"not SERVING after 2 s (--ready-timeout-s): {slow.address} NOT_SERVING\n"
        assert expected in run.text
        assert not run.run_dir.exists()
        check_free(members)


@pytest.mark.long
@pytest.mark.parametrize("mode", runs.MODES)
def test_worker_that_never_becomes_ready_again(tmp_path: Path, table: Table, mode: str) -> None:
    """A restarted worker that never becomes ready is not waited for: the others do the work."""
    with crew(tmp_path, 2, *STEP, seats(mode)) as members:
        with runs.started(tmp_path, mode, addresses_of(members), runs.make_prompts()) as run:
            injected_ns = in_decode(members).kill()
            members[0].restart(*NEVER)
            found = runs.check_valid(run)
        table.add("kill -9, the next process loads for ever", run, 0, injected_ns)
        assert [1, 1] == [worker["streams"] for worker in found["summary"]["workers"]]


@pytest.mark.parametrize("mode", runs.modes("server"))
def test_all_workers_lost(tmp_path: Path, table: Table, mode: str) -> None:
    """Without a worker for --no-worker-timeout-s: exit code 1, each is named, received tokens are kept."""
    with crew(tmp_path, 2, *STEP, seats(mode)) as members:
        flags = ("--no-worker-timeout-s", "2")
        with runs.started(tmp_path, mode, addresses_of(members), runs.make_prompts(), *flags) as run:
            injected_ns = in_decode(members).kill()
            members[1].kill()
            found = runs.check_failed(run, "--no-worker-timeout-s", *addresses_of(members))
        table.add("kill -9 of all workers", run, 1, injected_ns)
        assert 2 == len(found["summary"]["losses"])


@pytest.mark.long
@pytest.mark.parametrize("mode", runs.MODES)
def test_all_workers_lost_and_one_comes_back(tmp_path: Path, table: Table, mode: str) -> None:
    """A run without workers continues when one returns within --no-worker-timeout-s."""
    with crew(tmp_path, 2, *STEP, seats(mode)) as members:
        flags = ("--no-worker-timeout-s", "60")
        with runs.started(tmp_path, mode, addresses_of(members), runs.make_prompts(), *flags) as run:
            injected_ns = in_decode(members).kill()
            members[1].kill()
            wait_until(lambda: run.says(f"{members[1].address} lost"), "both lost")
            members[1].restart()
            found = runs.check_valid(run)
        table.add("kill -9 of all workers, one comes back", run, 0, injected_ns)
        assert [1, 2] == [worker["streams"] for worker in found["summary"]["workers"]]


@pytest.mark.parametrize("mode", runs.modes("accuracy"))
def test_restarted_worker_is_taken_back(tmp_path: Path, table: Table, mode: str) -> None:
    """A killed worker that starts again at the same address gets requests of the same run."""
    # Offline 120 answers of 160 tokens: 8 s for the worker that is left, which has the other back in 2.
    prompts = runs.make_prompts(120)
    with crew(tmp_path, 2, *STEP, seats(mode, 12)) as members:
        with runs.started(tmp_path, mode, addresses_of(members), prompts, server_s=8) as run:
            injected_ns = in_decode(members).kill()
            first_pid = members[0].worker.process.pid
            members[0].restart()
            wait_until(lambda: members[0].used, "used again", 30)
            found = runs.check_valid(run)
        table.add("kill -9, started again", run, 0, injected_ns)
        row = found["summary"]["workers"][0]
        assert 2 == row["streams"]
        assert members[0].worker.process.pid == int(row["info"]["pid"]) != first_pid


@pytest.mark.long
@pytest.mark.parametrize("mode", runs.MODES)
def test_restarted_as_another_is_refused(tmp_path: Path, table: Table, mode: str) -> None:
    """A killed worker that returns with other settings gets no request; the log names the difference."""
    prompts = runs.make_prompts(170)
    with crew(tmp_path, 2, *STEP, seats(mode, 12)) as members:
        with runs.started(tmp_path, mode, addresses_of(members), prompts, server_s=8) as run:
            injected_ns = in_decode(members).kill()
            members[0].restart("--max-model-len", "9999")
            wait_until(lambda: run.says("max_model_len differs"), "refused", 30)
            found = runs.check_valid(run)
        table.add("kill -9, started again with another --max-model-len", run, 0, injected_ns)
        assert [1, 1] == [worker["streams"] for worker in found["summary"]["workers"]]


@pytest.mark.long
@pytest.mark.parametrize("mode", runs.MODES)
def test_on_worker_loss_fail(tmp_path: Path, table: Table, mode: str) -> None:
    """With --on-worker-loss fail the first loss ends the run and names the worker; the other one is freed."""
    with crew(tmp_path, 2, *STEP, seats(mode)) as members:
        flags = ("--on-worker-loss", "fail")
        with runs.started(tmp_path, mode, addresses_of(members), runs.make_prompts(), *flags) as run:
            injected_ns = in_decode(members).kill()
            runs.check_failed(run, members[0].address, "UNAVAILABLE", "--on-worker-loss fail")
        table.add("kill -9, --on-worker-loss fail", run, 1, injected_ns)
        check_free(members[1:])
