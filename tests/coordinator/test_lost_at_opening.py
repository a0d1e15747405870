"""A worker that is lost while its stream is opened fails the run: that is no bad input of the user."""

import sys
from pathlib import Path

import pytest

from tests import fleet

# The product's own worker, up to the call that opens a run.
AT_OPENING = """
import asyncio, os, sys
import grpc
from worker import __main__
from worker.servicer import WorkerServicer

async def generate(self, request_iterator, context):
    await anext(request_iterator)
    {fault}

WorkerServicer.Generate = generate
sys.exit(__main__.main(sys.argv[1:]))
"""


# The worker begins to drain after the coordinator has found it SERVING.
DRAINING_AT_OPENING = """
import sys
from worker import __main__
from worker.servicer import WorkerServicer

generate = WorkerServicer.Generate

async def drain_and_generate(self, request_iterator, context):
    self.drain()
    await generate(self, request_iterator, context)

WorkerServicer.Generate = drain_and_generate
sys.exit(__main__.main(sys.argv[1:]))
"""


def end_of_run(directory: Path, source: str) -> tuple[int, str]:
    """Run against a worker of this source; returns exit code and the last line."""
    program = (sys.executable, "-c", source)
    worker = fleet.start_worker(directory / "log", program=program)
    try:
        fleet.wait_serving(worker)
        data = fleet.write_prompts(directory / "data.parquet", fleet.counting_prompts(4))
        done = fleet.coordinate([worker], data, directory / "out")
    finally:
        worker.process.kill()
        worker.process.wait(60)
    assert not (directory / "out").exists()
    return done.returncode, done.stderr.splitlines()[-1].replace(worker.address, "WORKER")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("os._exit(9)", "UNAVAILABLE: "),
        ("await context.abort(grpc.StatusCode.UNAVAILABLE, 'engine died: as told')", "UNAVAILABLE: engine"),
        ("await asyncio.sleep(3600)", "no answer within 5 s"),
        ("return", "stream ended"),
    ],
    ids=["reset", "engine-died", "silent", "ended"],
)
def test_a_worker_lost_at_opening_is_a_failed_run(tmp_path: Path, fault: str, reason: str) -> None:
    """Exit code 1, one line with the worker and how it was lost, and no directory of a run."""
    code, line = end_of_run(tmp_path, AT_OPENING.format(fault=fault))
    assert 1 == code, line
    assert line.startswith(f"coordinator: lost before the run began: worker WORKER: {reason}")


@pytest.mark.parametrize("status", ["FAILED_PRECONDITION", "INVALID_ARGUMENT", "UNAUTHENTICATED"])
def test_a_worker_that_refuses_the_run_is_bad_input(tmp_path: Path, status: str) -> None:
    """Exit code 2: the same flags would be refused again."""
    fault = f"await context.abort(grpc.StatusCode.{status}, 'as told')"
    code, line = end_of_run(tmp_path, AT_OPENING.format(fault=fault))
    assert (2, f"coordinator: --workers: worker WORKER: {status}: as told") == (code, line)


def test_a_worker_that_drains_at_opening_is_a_lost_one(tmp_path: Path) -> None:
    """Exit code 1: the same flags may do once it has been started again, for which a run waits."""
    lost = "worker WORKER: UNAVAILABLE: worker is WORKER_STATE_DRAINING"
    expected = (1, f"coordinator: lost before the run began: {lost}")
    assert expected == end_of_run(tmp_path, DRAINING_AT_OPENING)
