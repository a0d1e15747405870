"""Who knocks while a run is under way is refused, and the run ends VALID with every token."""

import random
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.columns import PROTOCOL_VERSION
from tests import fleet, secure

# 200 steps of 10 ms: the run outlives the intruders, which is checked.
STEP_MS, ANSWER_LEN = "10", 200
PROMPTS = [[ANSWER_LEN, 7, 1000 * i] for i in range(12)]
WAIT_S = 60.0
END_TIMEOUT_S = 60.0
UNAVAILABLE = "UNAVAILABLE"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write certificates, tokens and prompts."""
    directory = tmp_path_factory.mktemp("files")
    secure.write_files(directory)
    fleet.write_prompts(directory / "data.parquet", PROMPTS)
    return directory


@pytest.fixture(params=["token", "mutual"])
def door(request: pytest.FixtureRequest) -> str:
    """Name a door in plaintext, and one with everything."""
    name: str = request.param
    return name


@pytest.fixture
def worker(files: Path, tmp_path: Path, door: str) -> Iterator[fleet.WorkerProcess]:
    """Run a worker behind the door."""
    with secure.doors(tmp_path, files, door, flags=("--step-ms", STEP_MS)) as started:
        yield started[door]


@pytest.fixture
def run(
    files: Path, tmp_path: Path, door: str, worker: fleet.WorkerProcess
) -> Iterator[subprocess.Popen[str]]:
    """Start a coordinator that belongs, and wait until tokens come."""
    flags = ["--accuracy", "--max-new-tokens", str(ANSWER_LEN), *secure.KEYS[door].format(d=files).split()]
    command = fleet.coordinator_command([worker], files / "data.parquet", tmp_path / "out", *flags)
    process = subprocess.Popen(
        command, cwd=fleet.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        deadline_s = time.monotonic() + WAIT_S
        while not secure.load_of(worker, files, door).produced_tokens:
            assert time.monotonic() < deadline_s, worker.log.read_text()
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate(timeout=WAIT_S)


def ask_health(channel: grpc.Channel) -> str:
    """Ask a channel's worker for its health; returns the status code."""
    with channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=secure.CALL_TIMEOUT_S
            )
        except grpc.RpcError as error:
            code: str = error.code().name
            return code
    return "OK"


def strangers(worker: fleet.WorkerProcess, files: Path, door: str) -> dict[str, str]:
    """Call as those whom the door does not let through to any service; returns the status of each."""
    ca, strange_ca, key, cert = (
        (files / name).read_bytes()
        for name in ("ca.pem", "strangers.pem", "strange-client.key", "strange-client.pem")
    )
    channels = {"no-certificate": grpc.secure_channel(worker.address, grpc.ssl_channel_credentials(ca))}
    if door == "mutual":
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
        channels["plaintext"] = grpc.insecure_channel(worker.address)
        channels["strange-certificate"] = grpc.secure_channel(worker.address, credentials)
        credentials = grpc.ssl_channel_credentials(strange_ca)
        channels["distrustful"] = grpc.secure_channel(worker.address, credentials)
    return {name: ask_health(channel) for name, channel in channels.items()}


def knock(worker: fleet.WorkerProcess, files: Path, door: str) -> dict[str, tuple[str, str]]:
    """Begin runs as those whom the door lets through, with what is not right; returns status and words."""
    with secure.channel(worker, files, door) as channel:
        return {
            "no-token": secure.refusal_of(channel, []),
            "wrong-token": secure.refusal_of(channel, secure.bearer(secure.OTHER_TOKEN)),
            "longer-token": secure.refusal_of(channel, secure.bearer(secure.TOKEN + "0")),
            "bare-token": secure.refusal_of(channel, [("authorization", secure.TOKEN)]),
            "twice": secure.refusal_of(
                channel, secure.bearer(secure.TOKEN) + secure.bearer(secure.OTHER_TOKEN)
            ),
            "second": secure.refusal_of(channel, secure.bearer(secure.TOKEN)),
            "old-version": secure.refusal_of(channel, secure.bearer(secure.TOKEN), PROTOCOL_VERSION - 1),
        }


def throw_garbage(worker: fleet.WorkerProcess, files: Path, door: str, stack: ExitStack) -> None:
    """Send what is no call on connections of our own; they stay open as long as the worker lets them."""
    host, _, port = worker.address.rpartition(":")
    noise = random.Random(5).randbytes(65_536)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", noise, b"\x16\x03\x01\x02\x00" + noise, preface + noise, b""):
        connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=WAIT_S))
        with suppress(ConnectionError):
            connection.sendall(garbage)
    if door != "mutual":
        return
    context = ssl.create_default_context(cafile=files / "ca.pem")
    context.load_cert_chain(files / "client.pem", files / "client.key")
    context.set_alpn_protocols(["h2"])
    connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=WAIT_S))
    shaken = stack.enter_context(context.wrap_socket(connection, server_hostname=host))
    with suppress(ConnectionError, ssl.SSLError):
        shaken.sendall(preface + noise)


def test_run_goes_on_under_intruders(
    files: Path, tmp_path: Path, door: str, worker: fleet.WorkerProcess, run: subprocess.Popen[str]
) -> None:
    """Strangers, wrong tokens, a second coordinator and garbage get nowhere; no token is lost or doubled."""
    holder = secure.load_of(worker, files, door).run_id
    with ExitStack() as stack:
        throw_garbage(worker, files, door, stack)
        met = strangers(worker, files, door)
        refused = knock(worker, files, door)
        # All of it came in mid-run.
        assert holder == secure.load_of(worker, files, door).run_id
        printed, _ = run.communicate(timeout=END_TIMEOUT_S)
    assert 0 == run.returncode, printed
    assert {UNAVAILABLE} == set(met.values()), met
    wrong, held = ("UNAUTHENTICATED", "wrong run token"), f"run {holder} holds this worker"
    version = f"protocol version {PROTOCOL_VERSION - 1}, this worker speaks {PROTOCOL_VERSION}"
    assert {
        "no-token": ("UNAUTHENTICATED", "no run token: --run-token-file is missing"),
        "wrong-token": wrong,
        "longer-token": wrong,
        "bare-token": wrong,
        "twice": wrong,
        "second": ("FAILED_PRECONDITION", held),
        "old-version": ("FAILED_PRECONDITION", version),
    } == refused
    entries = fleet.accuracy_entries(tmp_path / "out" / "offline" / "accuracy")
    expected = {i: fleet.counting_answer(prompt, ANSWER_LEN) for i, prompt in enumerate(PROMPTS)}
    assert expected == {int(str(e["qsl_idx"])): fleet.tokens_of(str(e["data"])) for e in entries}
    assert len(PROMPTS) == len(entries)
    secure.check_free(worker, files, door)
    log = worker.log.read_text()
    assert (4, 1) == (log.count("wrong run token\n"), log.count("no run token: "))
    assert [] == [secret for secret in (secure.TOKEN, secure.OTHER_TOKEN) if secret in log + printed]
