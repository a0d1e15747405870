"""Nodes of several replicas in --workers: each replica is a worker of the run."""

import os
import signal
from pathlib import Path

from tests import fleet
from tests.faults import runs
from tests.faults.crew import replicas_of, wait_until


def test_each_replica_has_a_stream_of_its_own(tmp_path: Path) -> None:
    """A node of two beside a lone worker are three workers: all bring tokens, every answer is exact."""
    flags = ("--step-ms", "2", "--max-num-seqs", "8")
    with fleet.node(tmp_path, 2, *flags) as node, fleet.workers(tmp_path, 1, *flags) as (lone,):
        expected = [*replicas_of(node.address), lone.address]
        with runs.started(tmp_path, "accuracy", [node.address, lone.address], runs.make_prompts(60)) as run:
            found = runs.check_valid(run)
    workers = found["summary"]["workers"]
    assert expected == [worker["address"] for worker in workers]
    assert all(worker["tokens"] > 0 for worker in workers)
    assert [node.address, lone.address] == found["config"]["workers"]


def test_a_replica_killed_in_a_run_is_used_again(tmp_path: Path) -> None:
    """Its requests go on elsewhere, the node starts it again, and the run opens a second stream to it."""
    # 80 answers of 160 tokens: 8 s for the replica that is left alone, which has the other back in 2 or 3.
    with fleet.node(tmp_path, 2, "--step-ms", "5", "--max-num-seqs", "8") as node:
        (_, _), (address, replica) = replicas_of(node.address).items()
        with runs.started(tmp_path, "accuracy", [node.address], runs.make_prompts(80)) as run:
            wait_until(lambda: run.says("on 2 workers"), "begun")
            os.kill(replica.pid, signal.SIGKILL)
            wait_until(lambda: run.says(f"worker {address} is back"), "taken back")
            found = runs.check_valid(run)
    assert [address] == [loss["address"] for loss in found["summary"]["losses"]]
    assert [1, 2] == [worker["streams"] for worker in found["summary"]["workers"]]
    assert replica.pid != found["summary"]["workers"][1]["info"]["pid"]
