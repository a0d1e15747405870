"""Campaigns over nodes that others start: restarts between groups, and refusals before the first run."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import fleet
from tests.tokenfleet.campaign.plans import REHEARSAL, StartedCampaign, run_ids, write_plan

pytestmark = pytest.mark.long

WORKER = '[worker]\nengine = "counting"\nstep-ms = 2\n'
GROUPS = """
[server]
target-qps = 200

[nodes]
addresses = ["ADDRESS"]
restart-command = ["PYTHON", "restart.py"]

[[groups]]
name = "slow"
scenarios = ["offline"]
[[groups]]
name = "fast"
scenarios = ["server"]
"""
# Ends the worker whose process id is in worker.pid and starts another one on the same port.
RESTART = """\
import os, pathlib, signal, subprocess, sys, time
pid = pathlib.Path("worker.pid")
os.kill(int(pid.read_text()), signal.SIGKILL)
words = [sys.executable, "-m", "worker", "--engine=counting", "--seed=5", "--port=PORT"]
log = open("restarted.log", "ab")
child = subprocess.Popen(words, start_new_session=True, stdout=log, stderr=log)
pid.write_text(str(child.pid))
pathlib.Path("groups.txt").open("a").write(os.environ["TOKENFLEET_GROUP"] + "\\n")
"""


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[fleet.WorkerProcess]:
    """Run a worker that the campaign does not start; the one that replaces it is killed, too."""
    with fleet.workers(tmp_path, 1) as (started,):
        (tmp_path / "worker.pid").write_text(str(started.process.pid))
        yield started
    with contextlib.suppress(ProcessLookupError):
        os.kill(int((tmp_path / "worker.pid").read_text()), signal.SIGKILL)


def write_node_plan(directory: Path, address: str, *edits: tuple[str, str]) -> Path:
    """Write a plan of two groups over one node, its data and the program that restarts the node."""
    fleet.write_prompts(directory / "prompts.parquet", fleet.counting_prompts(40))
    (directory / "restart.py").write_text(RESTART.replace("PORT", address.rpartition(":")[2]))
    groups = GROUPS.replace("ADDRESS", address).replace("PYTHON", sys.executable)
    text = REHEARSAL.replace(WORKER, groups).replace('["performance", "accuracy"]', '["accuracy"]')
    return write_plan(directory, text, *edits)


def test_nodes_are_restarted_between_groups_only(tmp_path: Path, worker: fleet.WorkerProcess) -> None:
    """The command runs once with the group's name; the second group's answers are those of the new worker."""
    campaign = StartedCampaign(write_node_plan(tmp_path, worker.address))
    assert 0 == campaign.end(), campaign.text()
    assert "fast\n" == (tmp_path / "groups.txt").read_text()
    assert {"offline accuracy", "server accuracy"} == set(run_ids(tmp_path / "out"))
    first = {"offline": 1000 + 1, "server": 1000 + 1 + 5}
    for scenario, token in first.items():
        entries = fleet.accuracy_entries(tmp_path / "out" / scenario / "accuracy")
        (answer,) = [fleet.tokens_of(str(entry["data"])) for entry in entries if entry["qsl_idx"] == 1]
        assert token == answer[0]

    (tmp_path / "out" / "server" / "accuracy" / "run.json").unlink()
    again = StartedCampaign(tmp_path / "plan.toml")
    assert 0 == again.end(), again.text()
    # The nodes still have the flags of the second group.
    assert "fast\n" == (tmp_path / "groups.txt").read_text()


def test_a_restart_that_restarts_nothing_is_noticed(tmp_path: Path, worker: fleet.WorkerProcess) -> None:
    """Workers that are the same processes as before do not serve the next group."""
    idle = (f'["{sys.executable}", "restart.py"]', '["true"]')
    ready = ("[coordinator]", "[coordinator]\nready-timeout-s = 2")
    attempts = ('output-dir = "out"', 'output-dir = "out"\nmax-attempts = 1')
    campaign = StartedCampaign(write_node_plan(tmp_path, worker.address, idle, ready, attempts))
    assert 1 == campaign.end(), campaign.text()
    assert "group fast: not ready after 2 s: 1 of the processes are those from before" in campaign.text()
    assert {"offline accuracy"} == set(run_ids(tmp_path / "out"))


def test_nodes_without_a_way_to_restart_are_refused(tmp_path: Path, worker: fleet.WorkerProcess) -> None:
    """Several groups, no command and no terminal: exit code 2 before the first run, nothing is left."""
    without = (f'restart-command = ["{sys.executable}", "restart.py"]\n', "")
    campaign = StartedCampaign(write_node_plan(tmp_path, worker.address, without))
    assert 2 == campaign.end()
    assert "plan.toml: [nodes] restart-command: missing; several groups share nodes" in campaign.text()
    assert not (tmp_path / "out").exists()
