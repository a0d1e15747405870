"""A real Prometheus scrapes a run; every query of the dashboard returns data.

Needs Debian's package `prometheus`.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import fleet
from tests.test_metric_lists import promtool_findings, queries

PROMETHEUS = shutil.which("prometheus")
SCRAPE_S = 1
WAIT_S = 60.0
CONF = """\
*.Server.min_duration = 30000
*.Server.target_qps = 50
"""


@contextlib.contextmanager
def prometheus(directory: Path, targets: dict[str, list[int]]) -> Iterator[str]:
    """Run Prometheus over ports of this machine, by job; yields its address."""
    assert PROMETHEUS is not None
    config = yaml.safe_load((fleet.ROOT / "deploy/metrics/prometheus.yml").read_text())
    config["global"]["scrape_interval"] = f"{SCRAPE_S}s"
    for job in config["scrape_configs"]:
        ports = targets[job["job_name"]]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{fleet.free_port()}"
    command = [
        PROMETHEUS,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'series'}",
        f"--web.listen-address={address}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield address
        finally:
            process.terminate()
            process.wait(60)


def ask(address: str, query: str) -> list[Any]:
    """Ask Prometheus for the current value of a query of the dashboard; empty while it does not answer."""
    words = urllib.parse.urlencode({"query": query.replace("$__rate_interval", f"{4 * SCRAPE_S}s")})
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{words}", timeout=60) as answer:
            result: list[Any] = json.load(answer)["data"]["result"]
            return result
    except (ConnectionError, urllib.error.URLError):
        return []


def scraped(port: int) -> bytes:
    """Scrape a port of this machine once."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text: bytes = answer.read()
        return text


def all_answered(address: str, running: "subprocess.Popen[bytes]") -> dict[str, list[Any]]:
    """Ask every query until it returns data, while the run goes on, then each once more."""
    answers: dict[str, list[Any]] = {query: [] for _, query in queries()}
    deadline_s = time.monotonic() + WAIT_S
    while not all(answers.values()):
        missing = [query for query, answer in answers.items() if not answer]
        assert time.monotonic() < deadline_s and running.poll() is None, missing
        answers |= {query: ask(address, query) for query in missing}
        time.sleep(0.5)
    # By then Prometheus has scraped every target.
    time.sleep(2 * SCRAPE_S)
    return {query: ask(address, query) for query in answers}


@pytest.mark.long
@pytest.mark.skipif(PROMETHEUS is None, reason="Debian's package prometheus is not installed")
def test_every_query_of_the_dashboard_returns_data(tmp_path: Path) -> None:
    """During a Server run over two workers each query of each panel has a value; all targets are up.

    `promtool check metrics` finds no fault with what they serve.
    """
    data = fleet.write_prompts(tmp_path / "data.parquet", fleet.counting_prompts(200))
    conf = fleet.write_conf(tmp_path / "user.conf", CONF)
    ports = [fleet.free_port() for _ in range(3)]
    program = (sys.executable, "-m", "tests.deploy.worker_with_gpu")
    started = [
        fleet.start_worker(
            tmp_path / "worker.log", "--metrics-port", str(port), "--step-ms", "5", program=program
        )
        for port in ports[:2]
    ]
    targets = {"tokenfleet-worker": ports[:2], "tokenfleet-coordinator": ports[2:]}
    flags = ["--scenario", "server", "--user-conf", str(conf), "--max-new-tokens", "64"]
    flags += ["--metrics-port", str(ports[2])]
    try:
        for worker in started:
            fleet.wait_serving(worker)
        command = fleet.coordinator_command(started, data, tmp_path / "out", *flags)
        with (
            prometheus(tmp_path, targets) as address,
            (tmp_path / "run.log").open("wb") as log,
            subprocess.Popen(command, stdout=log, stderr=log, cwd=fleet.ROOT) as run,
        ):
            answers = all_answered(address, run)
            up = ask(address, "up")
            findings = [promtool_findings(scraped(port)) for port in ports]
            run.terminate()
            run.wait(20)
    finally:
        for worker in started:
            worker.stop()
    assert ["1", "1", "1"] == [series["value"][1] for series in up]
    assert [(0, b"")] * 3 == findings
    values = {query: [series["value"][1] for series in answer] for query, answer in answers.items()}
    assert ["612", "612"] == values["tokenfleet_gpu_power_watts"]
    assert ["1224"] == values["sum(tokenfleet_gpu_power_watts)"]
    assert ["1980000000"] * 2 == values["tokenfleet_gpu_sm_clock_hertz"]
    assert ["0.25", "0.25"] == values["tokenfleet_worker_kv_cache_usage_ratio"]
    assert ["0.25", "0.25"] == values["tokenfleet_coordinator_worker_kv_cache_usage_ratio"]
    assert ["3"] == values["tokenfleet_coordinator_ttft_limit_seconds"]
