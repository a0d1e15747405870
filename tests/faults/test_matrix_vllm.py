"""An engine of a real vLLM worker is killed or hangs; the other worker finishes the same answers."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import fleet
from tests.faults import runs
from tests.faults.crew import Member, addresses_of, wait_until
from tests.faults.table import Table
from tests.test_vllm_one_request import FLAGS, START_TIMEOUT_S
from tests.worker.engines.greedy import ANSWER_LEN, Reference, walk_prompts

pytestmark = [pytest.mark.vllm, pytest.mark.long]


class VllmWorkers:
    """Workers with vLLM, and the runs on them, whose answers are those of LLM.generate."""

    def __init__(self, directory: Path, checkpoint: Path, reference: Reference) -> None:
        """Take the directory of their files."""
        self._directory, self._answers = directory, reference.walk
        # One request at a time: a run then lasts long enough for an engine to die in it.
        self._flags = ("--engine", "vllm", "--model", str(checkpoint), *FLAGS, "--max-num-seqs", "1")
        self._greedy = fleet.write_conf(directory / "generation_config.json", '{"temperature": 0.0}')
        self.members: list[Member] = []

    def start(self, *flags: str) -> None:
        """Start one more worker, with more flags if any."""
        log = self._directory / f"worker{len(self.members)}.log"
        self.members.append(Member(log, (*self._flags, *flags)))

    def wait_serving(self) -> None:
        """Wait until all are SERVING."""
        for member in self.members:
            fleet.wait_serving(member.worker, START_TIMEOUT_S)

    @contextmanager
    def run(self, mode: str, *flags: str) -> Iterator[runs.Run]:
        """Start a run on all workers; the first has produced tokens when the block begins."""
        directory = self._directory / mode
        directory.mkdir()
        with runs.started(
            *(directory, mode, addresses_of(self.members), walk_prompts()),
            *("--generation-config", str(self._greedy), *flags),
            budget=ANSWER_LEN,
            answers=self._answers,
        ) as run:
            wait_until(lambda: produced_tokens(self.members[0]) > 0, "tokens")
            yield run


@pytest.fixture
def workers(tmp_path: Path, checkpoint: Path, reference: Reference) -> Iterator[VllmWorkers]:
    """Kill at the end of a test the workers that it has started."""
    made = VllmWorkers(tmp_path, checkpoint, reference)
    yield made
    for member in made.members:
        member.kill()


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


def test_engine_killed_inside_a_live_daemon(table: Table, workers: VllmWorkers) -> None:
    """Offline, Server, accuracy: every token equals LLM.generate's although one engine dies in each run."""
    for _ in range(2):
        workers.start()
    victim = workers.members[0]
    for mode in runs.MODES:
        workers.wait_serving()
        with workers.run(mode) as run:
            injected_ns = time.monotonic_ns()
            os.kill(engine_of(victim), signal.SIGKILL)
            found = runs.check_valid(run, 200)
        table.add("kill -9 of vLLM's engine inside the daemon", run, 0, injected_ns)
        [loss] = found["summary"]["losses"]
        assert (victim.address, True) == (loss["address"], "engine died" in loss["reason"])
        assert 1 == victim.worker.process.wait(60)
        victim.restart()


def test_a_hung_rank_is_a_lost_worker(table: Table, workers: VllmWorkers) -> None:
    """SIGSTOP of one of two tensor parallel ranks: lost after --stall-timeout-s; then its daemon ends."""
    psutil = pytest.importorskip("psutil")
    # One after the other: two starts at once take longer than both on a machine of two cores.
    for flags in (("--tensor-parallel-size", "2"), ()):
        workers.start(*flags)
        workers.wait_serving()
    victim = workers.members[0]
    left = psutil.Process(victim.worker.process.pid).children(recursive=True)
    with workers.run("offline", "--stall-timeout-s", "4") as run:
        injected_ns = time.monotonic_ns()
        next(rank for rank in left if "Worker" in rank.name()).suspend()
        found = runs.check_valid(run, 200)
    table.add("SIGSTOP of one of vLLM's ranks", run, 0, injected_ns)
    loss = found["summary"]["losses"][0]
    assert (victim.address, True) == (loss["address"], "no token for 4 s" in loss["reason"])
    assert 1 == victim.worker.process.wait(60)
    assert "engine died: its requests were not aborted within 10 s" in victim.text
    assert [] == psutil.wait_procs(left, timeout=20)[1]
