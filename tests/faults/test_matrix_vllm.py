"""An engine of a real vLLM worker is killed or hangs; the other worker finishes the same answers."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests import fleet
from tests.faults import runs
from tests.faults.crew import Member, addresses_of, wait_until
from tests.faults.table import Table
from tests.test_vllm_one_request import FLAGS, START_TIMEOUT_S
from tests.worker.engines.greedy import ANSWER_LEN, Reference, walk_prompts

pytestmark = [pytest.mark.vllm, pytest.mark.long]


def engine_of(member: Member) -> int:
    """Find the engine's process below the daemon; psutil comes with vLLM."""
    psutil = pytest.importorskip("psutil")
    children = psutil.Process(member.worker.process.pid).children(recursive=True)
    [engine] = [child.pid for child in children if "EngineCore" in child.name()]
    return engine


def produced_tokens(member: Member) -> int:
    """Return the number of tokens of the current run; 0 without a run."""
    load = member.load()
    return 0 if load is None else load.produced_tokens


def test_engine_killed_inside_a_live_daemon(
    tmp_path: Path, table: Table, checkpoint: Path, reference: Reference
) -> None:
    """Offline, Server, accuracy: every token equals LLM.generate's although one engine dies in each run."""
    # One request at a time: a run then lasts long enough for an engine to die in it.
    flags = ("--engine", "vllm", "--model", str(checkpoint), *FLAGS, "--max-num-seqs", "1")
    greedy = tmp_path / "generation_config.json"
    greedy.write_text('{"temperature": 0.0}')
    members = [Member(tmp_path / f"worker{i}.log", flags) for i in range(2)]
    try:
        for mode in runs.MODES:
            for member in members:
                fleet.wait_serving(member.worker, START_TIMEOUT_S)
            directory = tmp_path / mode
            directory.mkdir()
            with runs.started(
                *(directory, mode, addresses_of(members), walk_prompts()),
                *("--generation-config", str(greedy)),
                budget=ANSWER_LEN,
                answers=reference.walk,
            ) as run:
                wait_until(lambda: produced_tokens(members[0]) > 0, "tokens")
                injected_ns = time.monotonic_ns()
                os.kill(engine_of(members[0]), signal.SIGKILL)
                found = runs.check_valid(run, 200)
            table.add("kill -9 of vLLM's engine inside the daemon", run, 0, injected_ns)
            [loss] = found["summary"]["losses"]
            assert (members[0].address, True) == (loss["address"], "engine died" in loss["reason"])
            assert 1 == members[0].worker.process.wait(60)
            members[0].restart()
    finally:
        for member in members:
            member.kill()


def test_a_hung_rank_is_a_lost_worker(
    tmp_path: Path, table: Table, checkpoint: Path, reference: Reference
) -> None:
    """SIGSTOP of one of two tensor parallel ranks: lost after --stall-timeout-s; then its daemon ends."""
    psutil = pytest.importorskip("psutil")
    flags = ("--engine", "vllm", "--model", str(checkpoint), *FLAGS, "--max-num-seqs", "1")
    greedy = tmp_path / "generation_config.json"
    greedy.write_text('{"temperature": 0.0}')
    # One after the other: two starts at once take longer than both on a machine of two cores.
    members = [Member(tmp_path / "hung.log", (*flags, "--tensor-parallel-size", "2"))]
    try:
        fleet.wait_serving(members[0].worker, START_TIMEOUT_S)
        members.append(Member(tmp_path / "other.log", flags))
        fleet.wait_serving(members[1].worker, START_TIMEOUT_S)
        left = psutil.Process(members[0].worker.process.pid).children(recursive=True)
        with runs.started(
            *(tmp_path, "offline", addresses_of(members), walk_prompts()),
            *("--generation-config", str(greedy), "--stall-timeout-s", "4"),
            budget=ANSWER_LEN,
            answers=reference.walk,
        ) as run:
            wait_until(lambda: produced_tokens(members[0]) > 0, "tokens")
            injected_ns = time.monotonic_ns()
            next(rank for rank in left if "Worker" in rank.name()).suspend()
            found = runs.check_valid(run, 200)
        table.add("SIGSTOP of one of vLLM's ranks", run, 0, injected_ns)
        loss = found["summary"]["losses"][0]
        assert (members[0].address, True) == (loss["address"], "no token for 4 s" in loss["reason"])
        assert 1 == members[0].worker.process.wait(60)
        assert "engine died: its requests were not aborted within 10 s" in members[0].text
        assert [] == psutil.wait_procs(left, timeout=20)[1]
    finally:
        for member in members:
            member.kill()
