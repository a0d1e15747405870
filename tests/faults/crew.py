"""Workers that a test kills, stops, continues and starts again; every wait is bounded."""

import contextlib
import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import grpc

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from tests import fleet
from tests.faults.hosts import Host
from tests.forked import Main
from worker.__main__ import main as worker_main

POLL_S = 0.02
# Otherwise channels of one process share a connection, and with it the wait before the next attempt.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), *fleet.EAGER]


class Member:
    """One worker at one address, over several processes."""

    def __init__(
        self,
        log: Path,
        flags: Sequence[str],
        program: Main | Sequence[str] = worker_main,
        address: str | None = None,
    ) -> None:
        """Start it.

        Args:
            log: Gets the output of all its processes.
            flags: The worker's; a restart may add to them.
            program: What runs it, see fleet.start_worker.
            address: host:port to listen on; None: a free port of 127.0.0.1.
        """
        self._log, self._flags, self._program = log, flags, program
        self.worker = fleet.start_worker(log, *flags, program=program, address=address)
        self.address = self.worker.address

    @property
    def text(self) -> str:
        """Its log so far."""
        return self._log.read_text(errors="replace")

    def kill(self) -> int:
        """Kill -9 it and what it started; returns CLOCK_MONOTONIC in ns."""
        now_ns = time.monotonic_ns()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.worker.process.pid, signal.SIGKILL)
        self.worker.process.wait(60)
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
        """Call GetLoad; None: no answer."""
        return load_of(self.address)

    @property
    def idle(self) -> bool:
        """Whether GetLoad reports no run and no request."""
        load = self.load()
        return load is not None and fleet.holds_nothing(load)

    @property
    def used(self) -> bool:
        """Whether a run holds it and has tokens from it."""
        load = self.load()
        return load is not None and bool(load.running) and load.produced_tokens > 0


def load_of(address: str) -> pb.WorkerLoad | None:
    """Call GetLoad of a worker; None: no answer."""
    with grpc.insecure_channel(address, options=OWN_CONNECTION) as channel:
        try:
            load: pb.WorkerLoad = rpc.WorkerStub(channel).GetLoad(
                pb.GetLoadRequest(), timeout=2, wait_for_ready=True
            )
        except grpc.RpcError:
            return None
    return load


def replicas_of(address: str) -> dict[str, pb.Replica]:
    """List the addresses of a node's replicas, in order."""
    with grpc.insecure_channel(address, options=OWN_CONNECTION) as channel:
        info = rpc.WorkerStub(channel).GetInfo(pb.GetInfoRequest(), timeout=60, wait_for_ready=True)
    host = address.rpartition(":")[0]
    return {f"{host}:{replica.port}": replica for replica in info.replicas}


@functools.cache
def open_flags() -> tuple[str, ...]:
    """Compose the flags for listening beyond loopback without TLS."""
    command = [*fleet.WORKER, "--help"]
    shown = subprocess.run(command, cwd=fleet.ROOT, capture_output=True, text=True, timeout=60, check=True)
    return ("--insecure",) if "--insecure" in shown.stdout else ()


@contextlib.contextmanager
def crew(
    directory: Path,
    num: int,
    *flags: str,
    program: Main = worker_main,
    hosts: Sequence[Host] = (),
) -> Iterator[list[Member]]:
    """Run workers, all SERVING at the beginning of the block; none outlives it.

    Args:
        directory: Gets their logs.
        num: How many.
        flags: Of each.
        program: What runs each of those that run here.
        hosts: Where each runs; none: here.
    """
    members = []
    try:
        for index in range(num):
            log = directory / f"worker{index}.log"
            if hosts:
                host = hosts[index]
                words = (*flags, *open_flags())
                members.append(Member(log, words, (*host.enter, *fleet.WORKER), host.address()))
            else:
                members.append(Member(log, flags, program))
        for member in members:
            fleet.wait_serving(member.worker)
        yield members
    finally:
        for member in members:
            member.kill()


def addresses_of(members: Sequence[Member]) -> list[str]:
    """List their addresses."""
    return [member.address for member in members]


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Poll until something is true; the deadline fails the test."""
    deadline_s = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(POLL_S)


def check_free(members: Sequence[Member], timeout_s: float = 60.0) -> None:
    """Check that workers are SERVING, without a run and without a request, or soon will be."""
    for member in members:
        wait_until(lambda m=member: m.idle, f"{member.address} free", timeout_s)  # type: ignore[misc]
        assert "SERVING" == fleet.health(member.address)
