"""Jobs of deploy/slurm/tokenfleet.sbatch on a real Slurm of two nodes, one worker on each."""

import errno
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fleet
from tests.certificates import Authority
from tests.deploy import cluster

pytestmark = pytest.mark.long
# Offline lasts longer than its minimum of 100 ms: the longest answer is 40 tokens of 4 ms.
# LoadGen's early stopping wants some 700 Server queries: 200 a second for 5 s are 1,000.
CONF = """\
*.Offline.min_duration = 100
*.Offline.target_qps = 20
*.Server.min_duration = 5000
*.Server.target_qps = 200
"""
ENGINE = ("--engine", "counting", "--step-ms", "4", "--max-num-seqs", "64")
# A run that lasts until something ends it.
ENDLESS = "*.Offline.min_query_count = 10000000\n*.Offline.target_qps = 20\n"


@pytest.fixture(scope="module")
def slurm() -> Iterator[cluster.Cluster]:
    """One cluster for all tests here."""
    with cluster.running() as started:
        yield started


def submit(
    slurm: cluster.Cluster, tmp_path: Path, *flags: str, conf: str = CONF, **settings: str
) -> cluster.Job:
    """Submit a job whose results go to tmp_path/out; flags may go on with -- and the workers'."""
    data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(70))
    user_conf = fleet.write_conf(tmp_path / "user.conf", conf)
    files = ("--input-file", str(data), "--user-conf", str(user_conf), f"--output-dir={tmp_path / 'out'}")
    files = (*files, "--no-report")
    worker_flags = () if "--" in flags else ("--", *ENGINE)
    return slurm.submit(tmp_path / "job.log", [*files, *flags, *worker_flags], **settings)


def has_begun(tmp_path: Path) -> bool:
    """Say whether the Offline run has been opened."""
    return (tmp_path / "out/offline/performance/run.json").exists()


def outcome(tmp_path: Path, scenario: str = "offline") -> Any:
    """Read a run's verdict."""
    return json.loads((tmp_path / "out" / scenario / "performance/run.json").read_text())["verdict"][
        "outcome"
    ]


def check_nothing_is_left(job: cluster.Job, tmp_path: Path) -> None:
    """No process of the job runs, nothing listens on its workers' ports, no token lies about."""
    assert {} == job.processes()
    for port in job.ports:
        with socket.socket() as sock:
            assert errno.ECONNREFUSED == sock.connect_ex(("127.0.0.1", port))
    assert [] == list((tmp_path / "out").rglob(".*"))


def test_a_job_runs_every_scenario_on_every_node(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """Both runs are VALID, over both nodes, exit 0; results and logs are there, nothing else is."""
    job = submit(slurm, tmp_path, "--scenario", "offline", "server")

    assert ("COMPLETED", "0:0") == job.end(), job.describe()
    for scenario in ("offline", "server"):
        run = fleet.run_json(tmp_path / "out" / scenario / "performance")
        assert "VALID" == run["verdict"]["outcome"]
        assert [f"127.0.0.1:{port}" for port in job.ports] == [
            worker["address"] for worker in run["summary"]["workers"]
        ]
    for name in cluster.NODES:
        log = (tmp_path / f"out/workers/{name}.log").read_text()
        # One run of each scenario went through each worker.
        assert 2 == log.count(" begins"), log
    check_nothing_is_left(job, tmp_path)


def test_a_job_goes_over_tls(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """With a folder of certificates, one for each node's name, the run is over mutual TLS and VALID."""
    authority = Authority(tmp_path, "ca")
    for name in cluster.NODES:
        authority.issue(name, "127.0.0.1")
    authority.issue("coordinator")
    job = submit(slurm, tmp_path, TLS_DIR=str(tmp_path))

    assert ("COMPLETED", "0:0") == job.end(), job.describe()
    assert "VALID" == outcome(tmp_path)
    # A coordinator with a CA speaks nothing but TLS.
    config = fleet.run_json(tmp_path / "out/offline/performance")["config"]
    assert str(tmp_path / "ca.pem") == config["tls_ca"]
    check_nothing_is_left(job, tmp_path)


def test_a_flag_that_workers_refuse_ends_the_job(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """A worker that refuses its flags ends the job with 2 and the worker's own line; no run begins."""
    job = submit(slurm, tmp_path, "--", "--engine", "counting", "--max-num-seqs", "0")

    assert ("FAILED", "2:0") == job.end(), job.describe()
    assert "ended with 2 before the run: worker: --max-num-seqs: 0 is below 1 (" in job.text
    assert not has_begun(tmp_path)
    check_nothing_is_left(job, tmp_path)


def test_a_worker_that_dies_while_another_loads_ends_the_job(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """Nobody waits for a fleet that can no longer be complete: exit 1 with the node's name; all is ended."""
    job = submit(slurm, tmp_path, "--", *ENGINE, "--load-ms", "3600000")
    log = tmp_path / "out/workers/tf1.log"
    job.wait_until(lambda: log.exists() and "loading" in log.read_text())
    os.kill(job.worker_pid(1), signal.SIGKILL)

    assert ("FAILED", "1:0") == job.end(), job.describe()
    # 128 + SIGKILL.
    assert "worker on tf1 ended with 137 before the run: " in job.text
    assert not has_begun(tmp_path)
    check_nothing_is_left(job, tmp_path)


def test_what_the_doctor_fails_is_not_run(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """With TOKENFLEET_DOCTOR the doctor sees the workers serve; a rate that nobody can carry ends the job."""
    loading = (*ENGINE, "--load-ms", "3000")
    job = submit(slurm, tmp_path, "--target-qps", "1e9", "--", *loading, DOCTOR="1")

    assert ("FAILED", "1:0") == job.end(), job.describe()
    assert re.search(r"planned rate.*FAIL|FAIL.*planned rate", job.text, re.IGNORECASE), job.text
    assert not has_begun(tmp_path)
    check_nothing_is_left(job, tmp_path)


def test_a_run_survives_the_loss_of_a_node(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """A worker killed in the run loses no answer: the run goes on with the other one, and is VALID."""
    job = submit(slurm, tmp_path, "--", "--engine", "counting", "--step-ms", "200", "--max-num-seqs", "64")
    job.wait_until(lambda: has_begun(tmp_path))
    os.kill(job.worker_pid(1), signal.SIGKILL)

    assert ("COMPLETED", "0:0") == job.end(), job.describe()
    run = fleet.run_json(tmp_path / "out/offline/performance")
    assert "VALID" == run["verdict"]["outcome"]
    assert [f"127.0.0.1:{job.ports[1]}"] == [loss["address"] for loss in run["summary"]["losses"]]
    check_nothing_is_left(job, tmp_path)


def test_a_cancelled_job_leaves_nothing(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """After scancel in a run: INTERRUPTED in run.json, no process, no token."""
    job = submit(slurm, tmp_path, conf=ENDLESS)
    job.wait_until(lambda: has_begun(tmp_path))
    job.cancel()

    assert "CANCELLED" == job.end()[0], job.describe()
    assert "INTERRUPTED" == outcome(tmp_path)
    check_nothing_is_left(job, tmp_path)


def test_a_job_at_its_time_limit_leaves_nothing(slurm: cluster.Cluster, tmp_path: Path) -> None:
    """SIGUSR1 to the script alone, which it asks Slurm for before the limit, ends the run and the workers."""
    job = submit(slurm, tmp_path, conf=ENDLESS)
    job.wait_until(lambda: has_begun(tmp_path))
    job.signal_script("USR1")

    # 128 + SIGTERM.
    assert ("FAILED", "143:0") == job.end(), job.describe()
    assert "INTERRUPTED" == outcome(tmp_path)
    check_nothing_is_left(job, tmp_path)
