"""The Dockerfiles against the project they package, and the worker image's health check, run for real."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from packaging.requirements import Requirement

from worker.config import WorkerConfig

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = ["docker/Dockerfile.vllm", "docker/Dockerfile.coordinator"]


def read_dockerfile(name: str) -> str:
    """Return a Dockerfile with its continued lines joined, as docker joins them."""
    return re.sub(r"\\[ \t]*\n", "", (ROOT / name).read_text())


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_image_holds_every_package(dockerfile: str) -> None:
    """Each package that pyproject.toml installs is copied into the image, from a folder that exists."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rooms = {package.split(".")[0] for package in project["tool"]["setuptools"]["packages"]}
    copied = set(re.findall(r"^COPY (\w+)/ \1/$", read_dockerfile(dockerfile), re.MULTILINE))

    assert copied == rooms
    assert all((ROOT / room).is_dir() for room in rooms)


def test_image_pins_a_vllm_that_the_project_allows() -> None:
    """The vLLM version of the image lies inside the range of the extra `gpu`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (vllm,) = map(Requirement, project["project"]["optional-dependencies"]["gpu"])
    (version,) = re.findall(r"^ARG VLLM_VERSION=(\S+)$", read_dockerfile(DOCKERFILES[0]), re.MULTILINE)

    assert version in vllm.specifier


def test_health_check_asks_the_default_port() -> None:
    """Without WORKER_ADDRESS the health check and EXPOSE follow the worker's own default port."""
    dockerfile = read_dockerfile(DOCKERFILES[0])
    port = WorkerConfig().port

    assert f"\nENV WORKER_ADDRESS=127.0.0.1:{port}\nEXPOSE {port}\n" in dockerfile


@pytest.fixture
def health_server() -> Iterator[tuple[health.HealthServicer, str]]:
    """A real gRPC server with the standard health service, and its address."""
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(grace=None).wait(timeout=10)


def check_health(address: str) -> int:
    """Run the image's health check against an address and return its exit status."""
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", read_dockerfile(DOCKERFILES[0]), re.MULTILINE)
    _, *args = json.loads(check)
    # A proxy that answers nobody: the check must not ask it.
    env = {**os.environ, "WORKER_ADDRESS": address, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    return subprocess.run(
        [sys.executable, *args], check=False, env=env, capture_output=True, timeout=30
    ).returncode


def test_health_check_follows_the_serving_status(health_server: tuple[health.HealthServicer, str]) -> None:
    """The image is healthy while the overall gRPC health is SERVING, and not otherwise."""
    servicer, address = health_server
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)

    assert check_health(address) == 0

    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)

    assert check_health(address) == 1


def test_health_check_fails_where_nothing_listens() -> None:
    """A worker that does not listen is unhealthy; port 9 (discard) has no listener."""
    assert check_health("127.0.0.1:9") == 1
