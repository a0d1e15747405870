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

from tests import secure
from worker.config import WorkerConfig

ROOT = Path(__file__).resolve().parents[2]
PAIR_FILES = [("CERT", "pem"), ("KEY", "key")]
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
    wanted = map(Requirement, project["project"]["optional-dependencies"]["gpu"])
    (vllm,) = (requirement for requirement in wanted if requirement.name == "vllm")
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


def check_health(address: str, **changed: str) -> int:
    """Run the image's health check against an address and return its exit status."""
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", read_dockerfile(DOCKERFILES[0]), re.MULTILINE)
    _, *args = json.loads(check)
    # A proxy that answers nobody: the check must not ask it.
    env = {**os.environ, "WORKER_ADDRESS": address, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    env |= changed
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


def test_health_check_goes_over_tls(tmp_path: Path) -> None:
    """With the CA's file the check asks over TLS, with a certificate and key over mutual TLS."""
    secure.write_files(tmp_path)
    with secure.doors(tmp_path, tmp_path, "tls", "mutual") as doors:
        tls, mutual = doors["tls"].address, doors["mutual"].address
        ca = {"WORKER_TLS_CA": str(tmp_path / "ca.pem")}
        pair = {f"WORKER_TLS_{kind}": f"{tmp_path}/client.{end}" for kind, end in PAIR_FILES}
        codes = [check_health(tls), check_health(tls, **ca), check_health(mutual, **ca)]
        codes.append(check_health(mutual, **ca, **pair))

    assert codes == [1, 0, 1, 0]


def test_health_check_fails_where_nothing_listens() -> None:
    """A worker that does not listen is unhealthy; port 9 (discard) has no listener."""
    assert check_health("127.0.0.1:9") == 1
