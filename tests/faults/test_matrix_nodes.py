"""Nodes of two replicas on separate hosts: a replica is killed, a host is cut off."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests import fleet
from tests.faults import runs
from tests.faults.crew import (
    Member,
    addresses_of,
    crew,
    load_of,
    open_flags,
    replicas_of,
    wait_until,
)
from tests.faults.hosts import hosts
from tests.faults.moments import seats
from tests.faults.table import Table

pytestmark = pytest.mark.long
VLLM_TIMEOUT_S = 300.0
PRODUCED = re.compile(r"\[replica 1\] .* ends \(.*\): ([0-9]+) tokens")


def produces(address: str) -> bool:
    """Whether a replica has produced tokens of a run."""
    load = load_of(address)
    return load is not None and load.produced_tokens > 0


@pytest.mark.parametrize("mode", runs.MODES)
def test_a_fleet_of_nodes_outlives_a_replica_and_a_host(tmp_path: Path, table: Table, mode: str) -> None:
    """Four hosts of two: a replica killed with -9 is used again in the run, a host cut off is lost."""
    flags = ("--replicas", "2", "--step-ms", "20", "--max-num-seqs", seats(mode, 4))
    with hosts(4) as made, crew(tmp_path, 4, *flags, hosts=made) as members:
        addresses = addresses_of(members)
        (_, _), (victim, replica) = replicas_of(addresses[0]).items()
        limits = ("--worker-timeout-s", "2")
        with runs.started(tmp_path, mode, addresses, runs.make_prompts(190), *limits, server_s=12) as run:
            wait_until(lambda: run.says("on 8 workers"), "begun")
            wait_until(lambda: produces(victim), "tokens")
            injected_ns = time.monotonic_ns()
            os.kill(replica.pid, signal.SIGKILL)
            wait_until(lambda: run.says(f"{victim} is back"), "taken back")
            cut_off = list(replicas_of(addresses[3]))
            made[3].cut(to_host=True, from_host=True)
            wait_until(lambda: all(run.says(f"{address} lost") for address in cut_off), "host lost")
            found = runs.check_valid(run)
        table.add("replica of a node killed, then a host of two cut off", run, 0, injected_ns)
        assert sorted([victim, *cut_off]) == sorted(loss["address"] for loss in found["summary"]["losses"])
        streams = {worker["address"]: worker["streams"] for worker in found["summary"]["workers"]}
        assert (8, 2) == (len(streams), streams[victim])
        wait_until(lambda: PRODUCED.search(members[0].text) is not None, "the second process's words")
        assert int(PRODUCED.findall(members[0].text)[-1]) > 0


@pytest.mark.vllm
def test_real_vllm_replicas_serve_from_a_host(tmp_path: Path, checkpoint: Path) -> None:
    """A node of two vLLM replicas on another host: Offline and Server VALID, one killed in between."""
    flags = ("--engine", "vllm", "--model", str(checkpoint), "--replicas", "2", *open_flags())
    flags += ("--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "16")
    greedy = fleet.write_conf(tmp_path / "generation_config.json", '{"_about": "x", "temperature": 0.0}')
    data = fleet.write_prompts(tmp_path / "data.parquet", [[i, 11, 3 * i, 5] for i in range(40)])
    conf = fleet.write_conf(tmp_path / "user.conf")
    with hosts(1) as (host,):
        node = Member(tmp_path / "node.log", flags, (*host.enter, *fleet.WORKER), host.address())
        try:
            fleet.wait_serving(node.worker, VLLM_TIMEOUT_S)
            for scenario in ("offline", "server"):
                words = ("--scenario", scenario, "--user-conf", str(conf), "--max-new-tokens", "16")
                words += ("--generation-config", str(greedy), "--target-qps", "4", "--accuracy")
                done = fleet.coordinate([node.worker], data, tmp_path / "out", *words, timeout_s=200)
                assert 0 == done.returncode, done.stderr[-4000:]
                workers = fleet.run_json(tmp_path / "out" / scenario / "accuracy")["summary"]["workers"]
                assert ["vllm"] * 2 == [worker["info"]["engine"] for worker in workers]
                assert all(worker["tokens"] > 0 for worker in workers)
                if scenario == "offline":
                    os.kill(next(iter(replicas_of(node.address).values())).pid, signal.SIGKILL)
                    wait_until(lambda: "ended by SIGKILL" in node.text, "the node's notice")
                    assert "SERVING" == fleet.health(node.address)
                    fleet.wait_serving(node.worker, VLLM_TIMEOUT_S)
        finally:
            node.kill()
