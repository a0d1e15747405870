"""Workers that a test kills, stops, continues and starts again; every wait is bounded."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from tests import fleet

POLL_S = 0.02
WORKER = (sys.executable, "-m", "worker")
FAULTY = (sys.executable, "-m", "tests.faults.faulty_worker")
# Otherwise channels of one process share a connection, and with it the wait before the next attempt.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


class Member:
    """One worker at one address, over several processes."""

    def __init__(
        self, log: Path, flags: Sequence[str], program: Sequence[str] = WORKER, address: str | None = None
    ) -> None:
        """Start it.

        Args:
            log: Gets the output of all its processes.
            flags: The worker's; a restart may add to them.
            program: What runs it.
            address: host:port to listen on; None: a free port of 127.0.0.1.
        """
        self._log, self._flags, self._program = log, flags, program
        self.worker = fleet.start_worker(log, *flags, program=program, address=address)
        self.address = self.worker.address

    @property
    def text(self) -> str:
        """What it has logged so far."""
        return self._log.read_text(errors="replace")

    def kill(self) -> int:
        """Kill -9; returns CLOCK_MONOTONIC in ns."""
        now_ns = time.monotonic_ns()
        self.worker.process.kill()
        self.worker.process.wait(10)
        return now_ns

    def freeze(self) -> int:
        """SIGSTOP; returns CLOCK_MONOTONIC in ns."""
        now_ns = time.monotonic_ns()
        os.kill(self.worker.process.pid, signal.SIGSTOP)
        return now_ns

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.worker.process.pid, signal.SIGCONT)

    def restart(self, *flags: str) -> None:
        """Start another process at the same address, with more flags if any."""
        self.kill()
        words = [*self._flags, *flags]
        self.worker = fleet.start_worker(self._log, *words, program=self._program, address=self.address)

    def load(self) -> pb.WorkerLoad | None:
        """Ask what it is doing; None: no answer."""
        with grpc.insecure_channel(self.address, options=OWN_CONNECTION) as channel:
            try:
                load: pb.WorkerLoad = rpc.WorkerStub(channel).GetLoad(
                    pb.GetLoadRequest(), timeout=2, wait_for_ready=True
                )
            except grpc.RpcError:
                return None
        return load

    @property
    def idle(self) -> bool:
        """Whether it answers that no run holds it and that it has no request."""
        return self.load() == pb.WorkerLoad()

    @property
    def used(self) -> bool:
        """Whether a run holds it and it produces tokens for that run."""
        load = self.load()
        return load is not None and bool(load.running) and load.produced_tokens > 0


@contextlib.contextmanager
def crew(
    directory: Path,
    num: int,
    *flags: str,
    program: Sequence[str] = WORKER,
    addresses: Sequence[str | None] = (),
) -> Iterator[list[Member]]:
    """Run workers, all SERVING at the beginning of the block; none outlives it."""
    members = []
    try:
        for index, address in enumerate(addresses or [None] * num):
            members.append(Member(directory / f"worker{index}.log", flags, program, address))
        for member in members:
            fleet.wait_serving(member.worker)
        yield members
    finally:
        for member in members:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(member.worker.process.pid, signal.SIGKILL)
            member.worker.process.wait(10)


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Poll until something is true; the deadline fails the test."""
    deadline_s = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(POLL_S)


def check_free(members: Sequence[Member], timeout_s: float = 20.0) -> None:
    """Check that workers are SERVING, without a run and without a request, or soon will be."""
    for member in members:
        wait_until(lambda m=member: m.idle, f"{member.address} free", timeout_s)  # type: ignore[misc]
        assert "SERVING" == fleet.health(member.address)
