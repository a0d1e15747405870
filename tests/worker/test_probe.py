"""`python -m worker.probe`, as container engines and scripts run it, against real gRPC servers."""

import json
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
from tests.fleet import WorkerProcess
from worker import probe
from worker.config import WorkerConfig

AT_MOST = "at most one address, and one service or flag"
SERVING = 0, "SERVING\n"
VARIABLES = ("WORKER_ADDRESS", "WORKER_TLS_CA")
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
    server.stop(grace=None).wait(timeout=60)


def run_probe(address: str, *words: str, **changed: str) -> tuple[int, str]:
    """Probe an address; returns the exit code and what is printed: to stdout with 0, else to stderr."""
    code, stdout, stderr = run_call(address, *words, **changed)
    assert "" == (stdout if code else stderr)
    return code, stderr if code else stdout


def run_call(address: str, *words: str, **changed: str) -> tuple[int, str, str]:
    """Run the probe; returns the exit code, stdout and stderr."""
    # A proxy that answers nobody: the probe must not ask it.
    env = {**os.environ, "WORKER_ADDRESS": address, "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    done = subprocess.run(
        [sys.executable, "-m", "worker.probe", *words],
        check=False,
        env=env | changed,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, WorkerProcess]]]:
    """Run a worker with TLS and one with mutual TLS; returns the directory of their files too."""
    directory = tmp_path_factory.mktemp("doors")
    secure.write_files(directory)
    with secure.doors(directory, directory, "tls", "mutual") as started:
        yield directory, started


def variables(files: Path) -> dict[str, str]:
    """Return the variables of a client with a certificate."""
    pair = {f"WORKER_TLS_{kind}": f"{files}/client.{end}" for kind, end in PAIR_FILES}
    return {"WORKER_TLS_CA": str(files / "ca.pem")} | pair


def test_the_probe_follows_the_serving_status(health_server: tuple[health.HealthServicer, str]) -> None:
    """While the overall gRPC health is SERVING the exit code is 0, else 1; the status is printed."""
    servicer, address = health_server
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    assert SERVING == run_probe(address)

    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert (1, f"probe: {address}: NOT_SERVING\n") == run_probe(address)


def test_the_probe_asks_for_a_service(health_server: tuple[health.HealthServicer, str]) -> None:
    """A SERVICE argument selects the health service that is checked; two are refused."""
    servicer, address = health_server
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    servicer.set("tokenfleet.v1.Worker", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert SERVING == run_probe(address)
    assert (1, f"probe: {address}: NOT_SERVING\n") == run_probe(address, "tokenfleet.v1.Worker")
    reason = "has no health service 'nobody' (an address is HOST:PORT)"
    assert (1, f"probe: {address}: {reason}\n") == run_probe(address, "nobody")
    assert (2, f"probe: a b: {AT_MOST}\n") == run_probe(address, "a", "b")


def test_the_probe_takes_an_address(health_server: tuple[health.HealthServicer, str]) -> None:
    """host:port on the command line wins over WORKER_ADDRESS, with a service or without; two are refused."""
    servicer, address = health_server
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    servicer.set("tokenfleet.v1.Worker", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert SERVING == run_probe("127.0.0.1:9", address)
    line = f"probe: {address}: NOT_SERVING\n"
    assert (1, line) == run_probe("127.0.0.1:9", address, "tokenfleet.v1.Worker")
    assert (2, f"probe: a:1 b:2: {AT_MOST}\n") == run_probe(address, "a:1", "b:2")


def test_the_probe_helps(capfd: pytest.CaptureFixture[str]) -> None:
    """--help lists arguments and variables without a request; other flags are refused."""
    assert 0 == probe.main(["--help"], {"WORKER_ADDRESS": "127.0.0.1:9"})
    shown = capfd.readouterr()
    assert "" == shown.err
    assert all(word in shown.out for word in ("[HOST:PORT] [SERVICE | --info | --load | --host]", *VARIABLES))
    refusal = (
        "probe: --tls: the flags are --info, --load, --host, --help; see it for the environment variables\n"
    )
    assert (2, refusal) == run_probe("127.0.0.1:9", "--tls")


def test_the_probe_goes_over_tls(doors: tuple[Path, dict[str, WorkerProcess]]) -> None:
    """With the CA's file the probe asks over TLS, with certificate and key too over mutual TLS.

    What is missing is named as the coordinator names it, by the probe's own variables.
    """
    files, started = doors
    tls, mutual = started["tls"].address, started["mutual"].address
    ca = {"WORKER_TLS_CA": str(files / "ca.pem")}
    strange = variables(files) | {"WORKER_TLS_CERT": f"{files}/strange-client.pem"}
    strange["WORKER_TLS_KEY"] = f"{files}/strange-client.key"
    asks = [(tls, {}), (tls, ca), (mutual, ca), (mutual, variables(files)), (mutual, strange)]
    ended = [run_probe(address, **changed) for address, changed in asks]

    required = "the worker requires a client certificate: WORKER_TLS_CERT and WORKER_TLS_KEY are missing"
    assert [
        (1, f"probe: {tls}: the worker speaks TLS: WORKER_TLS_CA is missing\n"),
        SERVING,
        (1, f"probe: {mutual}: {required}\n"),
        SERVING,
        (1, f"probe: {mutual}: the worker refuses our client certificate (WORKER_TLS_CERT)\n"),
    ] == ended


def test_the_probe_prints_answers_as_grpcurl_does(doors: tuple[Path, dict[str, WorkerProcess]]) -> None:
    """JSON with lowerCamelCase names, enums by name, 64-bit numbers as text, and no defaults."""
    files, started = doors
    worker = started["mutual"]
    printed = {}
    for flag in ("--info", "--load", "--host"):
        code, stdout, stderr = run_call(worker.address, flag, **variables(files))
        assert (0, "") == (code, stderr)
        printed[flag] = json.loads(stdout)

    info = printed["--info"]
    assert ("counting", "WORKER_STATE_READY", 201_088) == (info["engine"], info["state"], info["vocabSize"])
    assert worker.process.pid == info["pid"]
    # No run and no request: every field has its default.
    assert {} == printed["--load"]
    assert str(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) == printed["--host"]["memoryBytes"]


@pytest.mark.parametrize(("words", "code"), [((), 0), (("--info",), 1)])
def test_a_health_check_does_not_fail_because_nothing_can_be_printed(
    doors: tuple[Path, dict[str, WorkerProcess]], words: tuple[str, ...], code: int
) -> None:
    """With a full disk as stdout the probe of a worker that serves ends with 0; a lost answer with 1."""
    files, started = doors
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "worker.probe", started["mutual"].address, *words],
            check=False,
            env=os.environ | variables(files),
            stdout=full,
            timeout=240,
        )
    assert code == done.returncode


def test_call_that_fails_is_one_line(health_server: tuple[health.HealthServicer, str]) -> None:
    """A server without the Worker service: exit code 1, and gRPC's status."""
    _, address = health_server
    assert (1, f"probe: {address}: UNIMPLEMENTED: Method not found!\n") == run_probe(address, "--info")
    assert (2, f"probe: --info --load: {AT_MOST}\n") == run_probe(address, "--info", "--load")
    assert (2, f"probe: --info a: {AT_MOST}\n") == run_probe(address, "--info", "a")


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
        ({"CA": __file__}, f"WORKER_TLS_CA: {__file__} holds no PEM certificate"),
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
