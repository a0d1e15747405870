"""Nodes of replicas for tests: start one by any program, ask how it is, wait; every wait is bounded."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from tests import fleet

WAIT_S = 60.0
# A sitecustomize: every engine dies at its first step, idle.
DYING = """
from worker.engines.scripted import counting
from worker.engine_protocol import EngineDead
async def die(self):
    raise EngineDead("CUDA error: out of memory")
counting.CountingEngine.step = die
"""


def info_of(address: str) -> pb.WorkerInfo:
    """Ask GetInfo."""
    with grpc.insecure_channel(address) as channel:
        info: pb.WorkerInfo = rpc.WorkerStub(channel).GetInfo(
            pb.GetInfoRequest(), timeout=60, wait_for_ready=True
        )
    return info


def states_of(address: str) -> list[str]:
    """Name the states of the node and its replicas."""
    info = info_of(address)
    states = [info.state, *(replica.state for replica in info.replicas)]
    return [pb.WorkerState.Name(state).removeprefix("WORKER_STATE_") for state in states]


def wait_until(true: Callable[[], bool], log: Path) -> None:
    """Poll until something is true; the deadline fails the test with a log."""
    deadline_s = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline_s, log.read_text()[-4000:]
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Say whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@contextlib.contextmanager
def node_of(program: str, directory: Path) -> Iterator[fleet.WorkerProcess]:
    """Run a node of two replicas by another program for the length of a block."""
    address = f"127.0.0.1:{fleet.free_port(3)}"
    node = fleet.start_worker(
        directory / "log", "--replicas", "2", address=address, program=(sys.executable, "-c", program)
    )
    try:
        yield node
    finally:
        node.stop()
