"""`python -m worker.probe`, as container engines and scripts run it, against real gRPC servers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests import secure
from worker import probe
from worker.config import WorkerConfig

PAIR_FILES = [("CERT", "pem"), ("KEY", "key")]


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


def run_probe(address: str, *services: str, **changed: str) -> tuple[int, str]:
    """Probe an address; returns the exit code and stderr."""
    # A proxy that answers nobody: the probe must not ask it.
    env = {**os.environ, "WORKER_ADDRESS": address, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    done = subprocess.run(
        [sys.executable, "-m", "worker.probe", *services],
        check=False,
        env=env | changed,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "" == done.stdout
    return done.returncode, done.stderr


def test_the_probe_follows_the_serving_status(health_server: tuple[health.HealthServicer, str]) -> None:
    """The exit code is 0 while the overall gRPC health is SERVING, else 1 with the status in one line."""
    servicer, address = health_server
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    assert (0, "") == run_probe(address)

    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert (1, f"probe: {address}: NOT_SERVING\n") == run_probe(address)


def test_the_probe_asks_for_a_service(health_server: tuple[health.HealthServicer, str]) -> None:
    """A SERVICE argument selects the health service that is checked; two are refused."""
    servicer, address = health_server
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    servicer.set("tokenfleet.v1.Worker", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert (0, "") == run_probe(address)
    assert (1, f"probe: {address}: NOT_SERVING\n") == run_probe(address, "tokenfleet.v1.Worker")
    assert (2, "probe: a b: at most one address and one service\n") == run_probe(address, "a", "b")


def test_the_probe_takes_an_address(health_server: tuple[health.HealthServicer, str]) -> None:
    """host:port on the command line wins over WORKER_ADDRESS, with a service or without; two are refused."""
    servicer, address = health_server
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    servicer.set("tokenfleet.v1.Worker", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert (0, "") == run_probe("127.0.0.1:9", address)
    line = f"probe: {address}: NOT_SERVING\n"
    assert (1, line) == run_probe("127.0.0.1:9", address, "tokenfleet.v1.Worker")
    assert (2, "probe: a:1 b:2: at most one address and one service\n") == run_probe(address, "a:1", "b:2")


def test_the_probe_helps(capfd: pytest.CaptureFixture[str]) -> None:
    """--help lists arguments and variables without a request; other flags are refused."""
    assert 0 == probe.main(["--help"], {"WORKER_ADDRESS": "127.0.0.1:9"})
    shown = capfd.readouterr()
    assert "" == shown.err
    assert all(word in shown.out for word in ("[HOST:PORT] [SERVICE]", "WORKER_ADDRESS", "WORKER_TLS_CA"))
    refusal = "probe: --tls: the only flag is --help; see it for the environment variables\n"
    assert (2, refusal) == run_probe("127.0.0.1:9", "--tls")


def test_the_probe_goes_over_tls(tmp_path: Path) -> None:
    """With the CA's file the probe asks over TLS, with a certificate and key over mutual TLS."""
    secure.write_files(tmp_path)
    with secure.doors(tmp_path, tmp_path, "tls", "mutual") as doors:
        tls, mutual = doors["tls"].address, doors["mutual"].address
        ca = {"WORKER_TLS_CA": str(tmp_path / "ca.pem")}
        pair = {f"WORKER_TLS_{kind}": f"{tmp_path}/client.{end}" for kind, end in PAIR_FILES}
        asks = [(tls, {}), (tls, ca), (mutual, ca), (mutual, ca | pair)]
        ended = [run_probe(address, **files) for address, files in asks]

    assert [1, 0, 1, 0] == [code for code, _ in ended]
    hints = [line.endswith("Socket closed; if it uses TLS: WORKER_TLS_CA is missing\n") for _, line in ended]
    assert [True, False, False, False] == hints, ended


def test_the_probe_fails_where_nothing_listens() -> None:
    """A worker that does not listen is unhealthy, and one line says why; port 9 (discard) has no listener."""
    code, line = run_probe("127.0.0.1:9")

    assert (1, 1) == (code, line.count("\n"))
    assert line.startswith("probe: 127.0.0.1:9: UNAVAILABLE: ")


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"CA": "/absent"}, "WORKER_TLS_CA: /absent: No such file or directory"),
        ({"CA": "/dev/zero"}, "WORKER_TLS_CA: /dev/zero: is not a regular file"),
        ({"CERT": __file__}, "WORKER_TLS_CERT and WORKER_TLS_KEY: each needs the other"),
        (
            {"CERT": __file__, "KEY": __file__},
            "WORKER_TLS_CERT: needs WORKER_TLS_CA too: a certificate is only used over TLS",
        ),
    ],
)
def test_bad_files_are_refused(files: dict[str, str], line: str) -> None:
    """A file that cannot be read, or that lacks the file it goes with, is exit code 2 and one line."""
    variables = {f"WORKER_TLS_{name}": path for name, path in files.items()}

    assert (2, f"probe: {line}\n") == run_probe("127.0.0.1:9", **variables)


def test_the_probe_asks_the_default_port() -> None:
    """Without WORKER_ADDRESS the probe asks loopback at the worker's own default port."""
    assert probe.DEFAULT_ADDRESS == f"127.0.0.1:{WorkerConfig().port}"
