"""One vLLM engine over two hosts: its answers, and what becomes of it when a part on either host is lost."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # vLLM brings it, nobody its stubs
import pytest

from tests import fleet
from tests.faults import runs
from tests.faults.crew import Member, open_flags, wait_until
from tests.faults.hosts import Host, hosts, sh, wire
from tests.faults.table import Table
from tests.worker.engines.greedy import ANSWER_LEN, Reference, walk_prompts

pytestmark = [pytest.mark.vllm, pytest.mark.long]

START_TIMEOUT_S = 300.0
END_TIMEOUT_S = 60.0
FLAGS = ("--engine", "vllm", "--dtype", "float32", "--max-model-len", "256")
TENSOR_PARALLEL = ("--enforce-eager", "--tensor-parallel-size", "2")
# With --enforce-eager vLLM's CPU build skips the warm-up that makes the buffers between pipeline stages.
PIPELINE_PARALLEL = (
    *("--pipeline-parallel-size", "2", "--tensor-parallel-size", "1", "--no-enforce-eager"),
    *("--compilation-config", '{"mode": 2, "backend": "eager"}'),
)
STALL_S = "4"


@dataclass
class Engine:
    """The daemons of an engine on two hosts."""

    head: Member
    follower: Member
    hosts: list[Host]

    @property
    def members(self) -> tuple[Member, Member]:
        """Both daemons."""
        return self.head, self.follower

    def processes(self) -> list[psutil.Process]:
        """List the processes of both daemons."""
        daemons = [psutil.Process(member.worker.process.pid) for member in self.members]
        return [found for daemon in daemons for found in (daemon, *daemon.children(recursive=True))]

    def remote_rank(self) -> psutil.Process:
        """Find the rank on the follower's host."""
        daemon = psutil.Process(self.follower.worker.process.pid)
        [rank] = [child for child in daemon.children(recursive=True) if "Worker" in child.name()]
        return rank

    def cut_wire(self) -> None:
        """Take down the cable between the hosts, without closing a connection."""
        sh("ip", "-n", self.hosts[1].name, "link", "set", f"{self.hosts[1].inside}w", "down")


@contextlib.contextmanager
def engine(directory: Path, made: list[Host], *flags: str) -> Iterator[Engine]:
    """Start the same command on both hosts, each with its rank; the head is SERVING in the block."""
    address, _ = wire(*made)
    words = (*FLAGS, *open_flags(), *flags, "--nnodes", "2", "--master-addr", address)
    cores = sorted(os.sched_getaffinity(0))
    members: list[Member] = []
    try:
        for rank, host in enumerate(made):
            # vLLM binds the rank of each host to the same core of this machine: one would wait for the other.
            variable = f"VLLM_CPU_OMP_THREADS_BIND={cores[rank % len(cores)]}"
            program = (*host.enter, "env", variable, *fleet.WORKER)
            log = directory / f"rank{rank}.log"
            members.append(Member(log, (*words, "--node-rank", str(rank)), program, host.address()))
        head, follower = members
        try:
            fleet.wait_serving(head.worker, START_TIMEOUT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\nfollower:\n{follower.text[-4000:]}") from error
        yield Engine(head, follower, made)
    finally:
        for member in members:
            member.kill()


def greedy_flags(directory: Path) -> tuple[str, str]:
    """Compose the coordinator's flags for greedy answers."""
    path = fleet.write_conf(directory / "generation_config.json", '{"temperature": 0.0}')
    return "--generation-config", str(path)


@pytest.mark.parametrize("parallel", [TENSOR_PARALLEL, PIPELINE_PARALLEL], ids=["tensor", "pipeline"])
def test_an_engine_over_two_hosts_answers_as_one(
    tmp_path: Path, checkpoint: Path, reference: Reference, parallel: tuple[str, ...]
) -> None:
    """Offline and Server: VALID, every token equals LLM.generate's; then both daemons end with the head's."""
    flags = ("--model", str(checkpoint), "--max-num-seqs", "16", *parallel)
    with hosts(2) as made, engine(tmp_path, made, *flags) as both:
        for mode in ("offline", "server"):
            directory = tmp_path / mode
            directory.mkdir()
            with runs.started(
                *(directory, mode, [both.head.address], walk_prompts(), *greedy_flags(directory)),
                budget=ANSWER_LEN,
                answers=reference.walk,
            ) as run:
                found = runs.check_valid(run, 200)
                (worker,) = found["summary"]["workers"]
                (machine,) = worker["hosts"]
                assert 1 == len(machine["engine_hosts"]) and machine["engine_hosts"][0]["num_cores"] > 0
        left = both.processes()
        both.head.worker.process.send_signal(signal.SIGTERM)
        ends = [member.worker.process.wait(END_TIMEOUT_S) for member in both.members]
        assert [0, 1] == ends, both.head.text[-2000:]
        assert "its daemon has been stopped" in both.follower.text
        assert [] == psutil.wait_procs(left, timeout=20)[1]


@pytest.fixture(scope="module")
def other(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Member]:
    """Start a worker of one host, which takes over what the engine over two hosts loses."""
    flags = (*FLAGS, "--enforce-eager", "--model", str(checkpoint), "--max-num-seqs", "1")
    member = Member(tmp_path_factory.mktemp("other") / "worker.log", flags, fleet.WORKER)
    try:
        fleet.wait_serving(member.worker, START_TIMEOUT_S)
        yield member
    finally:
        member.kill()


FAULTS: dict[str, tuple[Callable[[Engine], object], str]] = {
    "kill -9 of a rank on another host": (lambda both: both.remote_rank().kill(), "ended by signal 9"),
    "SIGSTOP of a rank on another host": (
        lambda both: both.remote_rank().suspend(),
        f"no token for {STALL_S} s",
    ),
    "kill -9 of the daemon of another host": (
        lambda both: psutil.Process(both.follower.worker.process.pid).kill(),
        "its process has ended",
    ),
    "cable between the hosts of an engine cut": (Engine.cut_wire, "silent for 15 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_part_that_fails_is_a_lost_worker(
    tmp_path: Path, table: Table, checkpoint: Path, reference: Reference, other: Member, fault: str
) -> None:
    """The other worker finishes the run with exact tokens; no process of the engine is left on a host."""
    inject, says = FAULTS[fault]
    stall_s = "60" if "cable" in fault else STALL_S
    flags = ("--model", str(checkpoint), "--max-num-seqs", "1", *TENSOR_PARALLEL)
    with hosts(2) as made, engine(tmp_path, made, *flags) as both:
        left = both.processes()
        addresses = [both.head.address, other.address]
        with runs.started(
            *(tmp_path, "offline", addresses, walk_prompts(), *greedy_flags(tmp_path)),
            *("--stall-timeout-s", stall_s),
            budget=ANSWER_LEN,
            answers=reference.walk,
        ) as run:
            wait_until(lambda: both.head.used, "tokens")
            injected_ns = time.monotonic_ns()
            inject(both)
            found = runs.check_valid(run, 200)
        table.add(fault, run, 0, injected_ns)
        losses = [loss for loss in found["summary"]["losses"] if loss["address"] == both.head.address]
        assert says in losses[0]["reason"]
        for member in both.members:
            assert member.worker.process.wait(END_TIMEOUT_S) in (1, -signal.SIGKILL)
        assert [] == psutil.wait_procs(left, timeout=20)[1]


def test_a_follower_dies_with_its_head(tmp_path: Path, checkpoint: Path) -> None:
    """After kill -9 of the head the other daemon ends with 1 and the reason; both may start again."""
    flags = ("--model", str(checkpoint), "--max-num-seqs", "1", *TENSOR_PARALLEL)
    with hosts(2) as made, engine(tmp_path, made, *flags) as both:
        left = both.processes()
        psutil.Process(both.head.worker.process.pid).kill()
        assert 1 == both.follower.worker.process.wait(END_TIMEOUT_S)
        assert "engine died: the head at " in both.follower.text
        assert ": its process has ended" in both.follower.text
        assert [] == psutil.wait_procs(left, timeout=20)[1]
        for member in both.members:
            member.restart()
        fleet.wait_serving(both.head.worker, START_TIMEOUT_S)
