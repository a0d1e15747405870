"""Workers with each kind of access control, the credential files for them, and clients that use these."""

import contextlib
import queue
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import worker_pb2 as pb
from protos import worker_pb2_grpc as rpc
from protos.columns import PROTOCOL_VERSION
from tests import fleet
from tests.certificates import Authority

TOKEN = "a-secret-of-24-letters-0"
OTHER_TOKEN = "another-secret-of-this-run"
CALL_TIMEOUT_S = 60.0
WAIT_S = 60.0
# Flags by door; {d} is where write_files has written.
TLS_DOOR = "--tls-cert {d}/worker.pem --tls-key {d}/worker.key"
MUTUAL_DOOR = f"{TLS_DOOR} --tls-ca {{d}}/ca.pem --run-token-file {{d}}/token"
DOORS = {
    "plain": "",
    "token": "--run-token-file {d}/token",
    "tls": TLS_DOOR,
    "mutual": MUTUAL_DOOR,
    "other-name": "--tls-cert {d}/node9.pem --tls-key {d}/node9.key",
}
# What opens the door of the same name, as a coordinator's flags.
TLS_KEY = "--tls-ca {d}/ca.pem"
PAIR_KEY = f"{TLS_KEY} --tls-cert {{d}}/client.pem --tls-key {{d}}/client.key"
KEYS = {
    "plain": "",
    "token": "--run-token-file {d}/token",
    "tls": TLS_KEY,
    "mutual": f"{PAIR_KEY} --run-token-file {{d}}/token",
}


def write_files(directory: Path) -> None:
    """Write two CAs, certificates of a worker and a client, two wrong certificates, and two tokens."""
    ours, strangers = Authority(directory, "ca"), Authority(directory, "strangers")
    ours.issue("worker", "127.0.0.1", "localhost")
    ours.issue("node9", "node9")
    ours.issue("client")
    strangers.issue("strange-client")
    for name, token in (("token", f"{TOKEN}\n"), ("other-token", OTHER_TOKEN)):
        (directory / name).write_text(token)
        (directory / name).chmod(0o600)


@contextlib.contextmanager
def doors(
    directory: Path, files: Path, *names: str, flags: tuple[str, ...] = ()
) -> Iterator[dict[str, fleet.WorkerProcess]]:
    """Run a worker with each access control for a block."""
    started = {
        name: fleet.start_worker(directory / f"{name}.log", *DOORS[name].format(d=files).split(), *flags)
        for name in names
    }
    try:
        for worker in started.values():
            wait_serving(worker)
        yield started
    finally:
        for worker in started.values():
            worker.stop()


def wait_serving(worker: fleet.WorkerProcess) -> None:
    """Wait until a worker with any access control is SERVING."""
    deadline_s = time.monotonic() + WAIT_S
    while "serving" not in worker.log.read_text():
        ended = worker.process.poll() is not None
        assert not ended, worker.log.read_text()
        assert time.monotonic() < deadline_s, worker.log.read_text()
        time.sleep(0.05)


def channel(worker: fleet.WorkerProcess, files: Path, door: str) -> grpc.Channel:
    """Open a channel to a worker with the right credentials."""
    if door in ("plain", "token"):
        return grpc.insecure_channel(worker.address)
    ca, key, cert = ((files / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem"))
    options = [("grpc.ssl_target_name_override", "node9")] if door == "other-name" else []
    return grpc.secure_channel(worker.address, grpc.ssl_channel_credentials(ca, key, cert), options=options)


def bearer(token: str) -> list[tuple[str, str]]:
    """Compose the call metadata that carries a token."""
    return [("authorization", f"Bearer {token}")]


def opening(run_id: str = "intruder", version: int = PROTOCOL_VERSION) -> pb.ToWorker:
    """Compose the first message of a run."""
    spec = pb.RunSpec(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=8)
    return pb.ToWorker(open=pb.Open(protocol_version=version, run_id=run_id, spec=spec))


def refusal_of(
    open_channel: grpc.Channel, metadata: list[tuple[str, str]], version: int = PROTOCOL_VERSION
) -> tuple[str, str]:
    """Begin a run that must be refused; returns status and details."""
    messages = iter([opening(version=version)])
    call = rpc.WorkerStub(open_channel).Generate(messages, timeout=CALL_TIMEOUT_S, metadata=metadata)
    try:
        answers = list(call)
    except grpc.RpcError as error:
        return error.code().name, str(error.details())
    raise AssertionError(answers)


@contextlib.contextmanager
def held(worker: fleet.WorkerProcess, files: Path, door: str, run_id: str) -> Iterator[None]:
    """Hold a worker with an idle run, and check at the end that the run still has it."""
    outgoing: queue.SimpleQueue[pb.ToWorker | None] = queue.SimpleQueue()
    outgoing.put(opening(run_id))
    with channel(worker, files, door) as open_channel:
        stub = rpc.WorkerStub(open_channel)
        incoming = stub.Generate(iter(outgoing.get, None), timeout=60, metadata=bearer(TOKEN))
        try:
            assert next(incoming).HasField("opened")
            yield
            outgoing.put(pb.ToWorker(ping=pb.Ping(nonce=5)))
            assert 5 == next(incoming).pong.nonce
        finally:
            outgoing.put(None)
        assert [] == list(incoming)


def load_of(worker: fleet.WorkerProcess, files: Path, door: str) -> pb.WorkerLoad:
    """Call GetLoad of a worker; this needs no token."""
    with channel(worker, files, door) as open_channel:
        load: pb.WorkerLoad = rpc.WorkerStub(open_channel).GetLoad(
            pb.GetLoadRequest(), timeout=CALL_TIMEOUT_S
        )
    return load


def check_free(worker: fleet.WorkerProcess, files: Path, door: str) -> None:
    """Check that a worker serves and that, within WAIT_S, no run holds it."""
    with channel(worker, files, door) as open_channel:
        answer = health_pb2_grpc.HealthStub(open_channel).Check(
            health_pb2.HealthCheckRequest(), timeout=CALL_TIMEOUT_S
        )
    assert health_pb2.HealthCheckResponse.SERVING == answer.status
    deadline_s = time.monotonic() + WAIT_S
    while not fleet.holds_nothing(load_of(worker, files, door)):
        assert time.monotonic() < deadline_s, worker.log.read_text()
        time.sleep(0.05)
