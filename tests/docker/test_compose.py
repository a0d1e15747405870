"""docker/compose.yaml: what compose reads, what our own parsers read, and a run where there is an engine."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from coordinator.config import build_parser, to_config
from sut.settings import Scenario
from tests.docker.workspace import ROOT
from worker.config import parse

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed (it comes with the extra cpu)")
COMPOSE_FILE = ROOT / "docker/compose.yaml"
RUN_TIMEOUT_S = 900.0


def succeeds(*command: str) -> bool:
    """Say whether a command is there and ends with 0."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, check=False, capture_output=True, timeout=240).returncode == 0


def compose(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run compose on the file, as docker's plugin or as the program of its own."""
    programs = [["docker", "compose"], ["docker-compose"]]
    program = next((words for words in programs if succeeds(*words, "version")), None)
    if program is None:
        pytest.skip("neither docker's compose plugin nor docker-compose is installed")
    return subprocess.run(
        [*program, "--file", COMPOSE_FILE, *args],
        check=False,
        cwd=ROOT,
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
    )


def read_services() -> dict:
    """Return the services, with the file's anchors and the defaults of its variables filled in."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", COMPOSE_FILE.read_text())
    services: dict = yaml.safe_load(text)["services"]
    return services


def test_compose_reads_the_file() -> None:
    """Compose itself finds the file valid."""
    done = compose("config", "--quiet")

    assert (0, "") == (done.returncode, done.stdout), done.stderr


def test_services_start_one_after_the_other() -> None:
    """Workers start once the inputs are made, the coordinator once both workers are healthy."""
    services = read_services()
    waits = {
        name: {other: what["condition"] for other, what in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    made = {"inputs": "service_completed_successfully"}
    healthy = {"worker1": "service_healthy", "worker2": "service_healthy"}

    assert {"inputs": {}, "worker1": made, "worker2": made, "coordinator": healthy} == waits


def test_services_are_built_from_this_project() -> None:
    """Every image is built from a Dockerfile of this project on a base that BASE_IMAGE replaces."""
    for service in read_services().values():
        build = service["build"]
        dockerfile = COMPOSE_FILE.parent / build["context"] / build["dockerfile"]

        assert [f"ARG BASE_IMAGE={build['args']['BASE_IMAGE']}"] == [
            line for line in dockerfile.read_text().splitlines() if line.startswith("ARG BASE_IMAGE")
        ]
        assert f"tokenfleet-{dockerfile.suffix[1:]}" == service["image"]


def test_flags_are_the_programs_own() -> None:
    """Worker and coordinator take the flags that the file gives them, and meet at one port."""
    services = read_services()
    config, model, engine_argv = parse(shlex.split(services["worker1"]["command"]))
    values, rest = build_parser().parse_known_args(shlex.split(services["coordinator"]["command"]))
    run = to_config(values, None)

    assert ("/inputs/checkpoint", "--dtype") == (model, engine_argv[0])
    assert services["worker1"]["command"] == services["worker2"]["command"]
    assert [] == rest
    assert Scenario.OFFLINE is run.scenario
    assert [f"worker1:{config.port}", f"worker2:{config.port}"] == list(run.workers)


@pytest.mark.long
def test_compose_runs_offline_over_two_workers(tmp_path: Path) -> None:
    """With an engine, one command builds, waits for both workers' health and ends with a VALID run."""
    if not succeeds("docker", "info"):
        pytest.skip("no docker engine answers")
    try:
        own = {"OWNER": f"{os.getuid()}:{os.getgid()}", "RESULTS": str(tmp_path)}
        done = compose("run", "--rm", "-T", "coordinator", **own)
        assert 0 == done.returncode, (done.stdout + done.stderr)[-4000:]
        assert "== offline performance: VALID ==" in done.stdout + done.stderr
        assert os.getuid() == (tmp_path / "offline/performance/run.json").stat().st_uid
    finally:
        compose("down", "--volumes")
